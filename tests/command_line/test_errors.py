"""Exit statuses, and the one line of a mistake."""

import os
import signal
import subprocess
import sys

import pytest

from cann_jax.command_line.errors import run_command
from cann_jax.files.errors import InfeasibleError, InputError, Preempted, ResourceError, is_out_of_memory


@pytest.mark.parametrize("error, status", [(InputError, 2), (ResourceError, 3), (InfeasibleError, 4)])
def test_run_command_prints_one_line(capsys, error, status):
    def main(argv):
        raise error("fix\nthis\x1b[2J")

    assert run_command(main) == status
    assert capsys.readouterr().err == "error: fix this�[2J\n"


def test_run_command_interrupted_and_bug(capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    def bug(argv):
        raise ValueError("a bug")

    assert run_command(interrupted) == 130
    assert capsys.readouterr().err == "interrupted; start again to continue with what is finished\n"
    with pytest.raises(ValueError, match="a bug"):
        run_command(bug)
    assert run_command(lambda argv: None) == 0


def test_run_command_preempted(capsys):
    """No handler of a library's errors on the way makes it another status."""

    def preempted(argv):
        try:
            raise Preempted("SIGTERM")
        except Exception:
            raise InputError("cannot be read") from None

    assert run_command(preempted) == 75
    assert capsys.readouterr().err == "stopped: SIGTERM\n"


def test_process_exits_with_the_status_and_without_traceback(tmp_path):
    code = (
        "import sys; from cann_jax.command_line.errors import run_command; "
        "from cann_jax.command_line.run_options import parse_run; "
        "sys.exit(run_command(parse_run))"
    )
    command = [sys.executable, "-c", code, "--config", str(tmp_path / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["", ".train", ".dual", ".reward", ".report", ".export", ".compile_check"]
)
def test_help_into_a_closed_pipe_ends_quietly(command):
    """As in ``--help | head``: the reader is gone before the text is written."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"cann_jax{command}", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=120) == 141


@pytest.mark.parametrize(
    "command, redirected, status",
    [
        ("completion bash", ">/dev/full", 3),
        ("dual --help", ">/dev/full", 3),
        ("train --config nowhere.yaml", ">/dev/full 2>/dev/full", 2),
        ("train --config nowhere.yaml", "2>&-", 2),
        ("completion bash", ">&- <&-", 0),
    ],
)
def test_a_stream_that_cannot_be_written_does_not_change_the_status(command, redirected, status):
    """Launchers start a program that ends with 1 again."""
    line = f'"{sys.executable}" -m cann_jax {command} {redirected}'
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
    assert ("free space" in ended.stderr) == (status == 3)


def test_an_encoding_without_greek():
    """That of some clusters' locales; what a run had to say of λ at its end was a traceback."""
    command = [sys.executable, "-m", "cann_jax.train", "--help"]
    ended = subprocess.run(
        command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"") and b"--dual.beta" in ended.stdout
    assert ended.stdout.decode("ascii").count(" ? ") > 1


def test_sigterm_before_a_run_has_begun(capsys):
    def starting(argv):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    assert run_command(starting) == 75
    assert capsys.readouterr().err.startswith("stopped: SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    "error, said",
    [
        (MemoryError(), "memory is exhausted"),
        (ImportError("lib.so: failed to map segment from shared object"), "memory is exhausted"),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), "memory is exhausted"),
        (OSError(28, "No space left on device", "x.txt"), "cannot write x.txt"),
    ],
)
def test_resources_that_run_out(capsys, error, said):
    def main(argv):
        raise error

    assert run_command(main) == 3
    assert said in capsys.readouterr().err


def test_a_full_disk_is_no_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: a.pb; No space left on device"))


def test_another_broken_pipe_keeps_its_traceback():
    def broken(argv):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_command(broken)
