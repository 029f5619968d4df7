"""--profile writes a trace of the steps asked for, and of no others."""

import contextlib

import jax
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.training import profile


def test_a_trace_of_two_steps(again, copy):
    folder = copy / "runs/tiny/align/tensorboard"
    said = again("--align.epochs", "1", "--stages", "align", "--profile", "1:3")
    assert f"profile: {folder}" in said
    (trace,) = folder.glob("plugins/profile/*/*.xplane.pb")
    content = trace.read_bytes()
    assert b"train_step" in content and b"step_num" in content


def test_steps_beyond_the_end_are_said(again):
    said = again("--align.epochs", "1", "--stages", "align", "--profile", "500:510")
    assert "profile: no step of 500 to 509 was trained here" in said


@pytest.mark.parametrize("text", ["3", "3:3", "5:2", "a:b", "-1:2"])
def test_steps_that_are_none(text):
    with pytest.raises(InputError, match=r"--profile \S+: write START:STOP, for example 2:5"):
        parse_run(["--config", "configs/quickstart.yaml", f"--profile={text}"])


def test_a_trace_that_cannot_be_written_does_not_end_the_training(tmp_path, capsys, monkeypatch):
    @contextlib.contextmanager
    def trace(folder):
        yield
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: a.xplane.pb; No space left on device")

    monkeypatch.setattr(jax.profiler, "trace", trace)
    token = profile.profiled.set(range(1, 2))
    with profile.Profile(tmp_path) as traced:
        traced.step(1)
        traced.end_step(1, ())
    profile.profiled.reset(token)
    assert "no trace was written" in capsys.readouterr().out
