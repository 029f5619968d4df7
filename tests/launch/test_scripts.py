"""The launchers' logic, with stand-ins for gcloud, kubectl and srun; tpu_pod.sh's own is in test_pod.py."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.builders import ROOT
from tests.builders.launchers import POD, launch
from tests.builders.secrets import MARKER, SECRETS, told


def test_all_processes_see_each_other_and_end():
    done = launch("local.sh", "3", "bash", "-c", "echo $CANN_JAX_PROCESS of $CANN_JAX_PROCESSES")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["0 of 3", "1 of 3", "2 of 3"]


def test_a_lost_process_ends_and_restarts_all(tmp_path):
    """The first time, process 1 is killed while 0 would go on for an hour."""
    first = f"[[ -e {tmp_path}/again ]] && exit 0; [[ $CANN_JAX_PROCESS == 0 ]] && exec sleep 3600; "
    first += f"sleep 0.5; touch {tmp_path}/again; kill -KILL $$"
    done = launch("local.sh", "2", "bash", "-c", first)
    assert done.returncode == 0
    assert "process 1 ended with status 137; ending all 2" in done.stderr
    assert "starting the whole job again (1 of 100)" in done.stderr


@pytest.mark.parametrize("status, starts", [(2, 1), (3, 1), (4, 1), (75, 3)])
def test_bad_input_is_not_tried_again(tmp_path, status, starts):
    count = f"echo x >> {tmp_path}/starts; exit {status}"
    done = launch("local.sh", "1", "bash", "-c", count, RESTARTS="2")
    assert done.returncode == status
    assert (tmp_path / "starts").read_text().count("x") == starts


TRAPS = "trap 'touch {0}/$CANN_JAX_PROCESS; sleep 0.2; exit 75' TERM; echo x >>{0}/starts; sleep 20 & wait"


def heed_interrupts() -> None:
    """A suite that is run in the background ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("script, processes", [("local.sh", ["0", "1"]), ("gpu_node.sh", ["0"])])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_reaches_every_process(tmp_path, script, processes, sent):
    """The launcher waits for them, and starts none of them again."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\n{TRAPS.format(tmp_path)}\n")
    program.chmod(0o755)
    words = ("2", str(program)) if script == "local.sh" else ()
    given = {**os.environ, "PYTHON": str(program), "CANN_JAX_PROCESS": "0"}
    process = subprocess.Popen(
        [str(ROOT / "launch" / script), *words],
        stderr=subprocess.PIPE,
        env=given,
        preexec_fn=heed_interrupts,
    )
    starts = tmp_path / "starts"
    while not (starts.exists() and starts.read_text().count("x") == len(processes)):
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(timeout=40) == 75
    assert all((tmp_path / index).exists() for index in processes)
    assert starts.read_text().count("x") == len(processes)


JOBSET = {"NAME": "r", "IMAGE": "i", "HOSTS": "2", "CHIPS": "4", "ACCELERATOR": "a", "TOPOLOGY": "2x4"}


@pytest.mark.parametrize(
    "script, words",
    [
        ("tpu_pod.sh", ("run", "--print", "--config", "x.yaml")),
        ("tpu_pod.sh", ("delete", "--print")),
        ("gke.sh", ("--config", "x.yaml", "--print")),
        ("gpu_node.sh", ("--config", "x.yaml", "--print")),
        ("slurm.sbatch", ("--config", "x.yaml", "--print")),
        ("local.sh", ("1", "--print", "echo")),
    ],
)
def test_print_that_is_not_first_starts_nothing(tmp_path, script, words):
    asked = tmp_path / "asked"
    done = launch(
        script,
        *words,
        ASKED=str(asked),
        PYTHON="echo",
        SLURM_SUBMIT_DIR=str(tmp_path),
        **JOBSET | POD | {"REMOTE": str(tmp_path / "remote")},
    )
    line = f"launch: error: --print is behind '{words[0]}'; make it the launcher's first argument\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line) and not list(tmp_path.iterdir())


def test_the_command_of_local_may_have_a_print_of_its_own():
    assert launch("local.sh", "1", "echo", "--print").stdout == "--print\n"


def test_no_error_is_invented(tmp_path):
    done = launch("local.sh", "1", "false", RESTARTS="0")
    assert "launch: ended with status 1\n" in done.stderr and "the last error" not in done.stderr


def test_jobset_is_whole(tmp_path):
    given = {"NAME": "run", "IMAGE": "registry/image", "HOSTS": "4", "CHIPS": "4", "TOPOLOGY": "4x4"}
    given |= {"ACCELERATOR": "tpu-v5-lite-podslice", "ASKED": str(tmp_path / "asked")}
    done = launch("gke.sh", "--config", "x.yaml", "--name", "a b", **given)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load((tmp_path / "asked").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    (container,) = pod["containers"]
    assert container["command"][2:] == ["cann_jax.train", "--config", "x.yaml", "--name", "a b"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


NASTY = (
    *(
        "a\\nb\\",
        'say "no"',
        "two\nlines\r\n",
        "$HOME $(HOME) $$ ${NAME}",
        "a: b # c, [d] {e}",
        "&\t\x01\x7f",
        "'",
    ),
    *("\u0085\u2028\u2029\ufeff", "é日本", "", "~", "--", "*"),
)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_jobset_holds_every_argument_as_it_is(tmp_path, locale):
    """YAML undoes the quotes, and Kubernetes its own $$, as ``expansion.Expand`` of kubelet does."""
    given = {
        "NAME": 'a"b\\',
        "IMAGE": "r/i: x",
        "HOSTS": "4",
        "CHIPS": "4",
        "TOPOLOGY": "4x4",
        "ACCELERATOR": "a",
    }
    done = launch("gke.sh", "--x", *NASTY, **given, ASKED=str(tmp_path / "asked"), LC_ALL=locale)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load((tmp_path / "asked").read_text(encoding="utf-8"))
    container = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert (job["metadata"]["name"], container["image"]) == ('a"b\\', "r/i: x")
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", word) for word in container["command"])
    assert [word.replace("$$", "$") for word in container["command"]][4:] == list(NASTY)
    refused = launch("gke.sh", **{**given, "HOSTS": "4\n  evil: 1"}, ASKED=str(tmp_path / "asked"))
    assert refused.returncode == 2 and "HOSTS is" in refused.stderr


def test_slurm_kills_the_job_when_a_task_is_lost(tmp_path):
    asked = tmp_path / "asked"
    given = {"ASKED": str(asked), "PYTHON": "echo", "SLURM_GPUS_ON_NODE": "4"}
    done = launch("slurm.sbatch", "--config", "x.yaml", **given)
    assert done.returncode == 0 and done.stdout.strip() == "-m cann_jax.train --config x.yaml"
    assert "--kill-on-bad-exit=1" in asked.read_text() and "scontrol" not in asked.read_text()


@pytest.mark.parametrize("status, again", [(2, False), (75, True), (137, True)])
def test_slurm_queues_again_what_can_go_on(tmp_path, status, again):
    asked, program = tmp_path / "asked", tmp_path / "python"
    program.write_text(f'#!/bin/bash\necho "$JAX_LOCAL_DEVICE_IDS"\nexit {status}\n')
    program.chmod(0o755)
    given = {"ASKED": str(asked), "PYTHON": str(program), "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}
    done = launch("slurm.sbatch", "--config", "x.yaml", **given)
    assert done.stdout == "0,1,2,3\n" and ("scontrol requeue 7" in asked.read_text()) is again
    assert done.returncode == (0 if again else status)
    last = launch("slurm.sbatch", "--config", "x.yaml", **given, SLURM_RESTART_COUNT="100")
    assert last.returncode == status


def test_slurm_finds_the_project_and_stays_where_it_was_submitted(tmp_path):
    """Slurm runs a copy of the script, which lies in a folder of its own."""
    copy, place = tmp_path / "spool" / "slurm_script", tmp_path / "elsewhere"
    copy.parent.mkdir()
    place.mkdir()
    shutil.copy(ROOT / "launch/slurm.sbatch", copy)
    say = "import cann_jax, os; print(cann_jax.__file__); print(os.getcwd())"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -c "{say}"\n')
    program.chmod(0o755)
    given = {"ASKED": str(tmp_path / "asked"), "PYTHON": str(program), "SLURM_SUBMIT_DIR": str(place)}
    given |= {"SUBMITTED": str(ROOT / "launch/slurm.sbatch"), "SLURM_JOB_ID": "7"}
    done = launch(copy, "--config", "x.yaml", **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(ROOT / "cann_jax/__init__.py"), str(place)]
    lost = launch(copy, "--config", "x.yaml", **{**given, "SUBMITTED": "/nowhere"})
    assert lost.returncode == 2 and "lib.sh" in lost.stderr


def test_slurm_gives_up_after_the_same_failure_twice(tmp_path):
    """Another failure, or a stop from outside in between, is no second one."""
    asked, program = tmp_path / "asked", tmp_path / "python"
    program.write_text('#!/bin/bash\necho "ValueError: $WHY" >&2; echo "later" >&2; exit $STATUS\n')
    program.chmod(0o755)
    given = {
        "ASKED": str(asked),
        "PYTHON": str(program),
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    starts = [("a", 1), ("b", 1), ("b", 75), ("b", 1), ("b", 137), ("b", 137), ("b", 1), ("b", 1)]
    for start, (why, status) in enumerate(starts):
        asked.write_text("")
        done = launch("slurm.sbatch", **given, WHY=why, STATUS=str(status), SLURM_RESTART_COUNT=str(start))
        again = start + 1 < len(starts)
        assert ("scontrol requeue 7" in asked.read_text()) is again, start
        assert done.returncode == (0 if again else 1)
    assert "launch: ended with status 1; the last error was: ValueError: b\n" in done.stderr
    assert "the same failure twice; giving up" in done.stderr and not list(tmp_path.glob("*.failure"))


@pytest.mark.parametrize(
    "lines, error",
    [
        ("echo /tmp/tmp$RANDOM/x at 0x7f$RANDOM: Error: no $RANDOM >&2; exit 1", "Error: no"),
        ("echo Fatal: $(mktemp -u) $(mktemp -u tmpXXXXXXXX) >&2; exit 1", "Fatal: "),
        ("echo 'terminate called: std::bad_alloc' >&2; kill -ABRT $$", "terminate called: std::bad_alloc"),
        ("echo step $RANDOM >&2; kill -SEGV $$", "step"),
    ],
)
def test_slurm_knows_a_failure_again(tmp_path, lines, error):
    """By what does not change from start to start; a crash is one, and what bash says of it no error."""
    asked, program = tmp_path / "asked", tmp_path / "python"
    program.write_text(f"#!/bin/bash\n{lines}\n")
    program.chmod(0o755)
    given = {"ASKED": str(asked), "PYTHON": str(program), "SLURM_SUBMIT_DIR": str(tmp_path)}
    for start in range(2):
        asked.write_text("")
        done = launch("slurm.sbatch", **given, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(start))
        assert ("scontrol requeue 7" in asked.read_text()) is (start == 0), done.stderr
        (said,) = re.findall("the last error was: (.*)", done.stderr)
        assert error in said and "lib.sh" not in said
    assert done.returncode > 0 and "the same failure twice; giving up" in done.stderr


def test_slurm_needs_to_keep_what_failed(tmp_path):
    """Else the same failure would be tried again without end."""
    asked, failure = tmp_path / "asked", tmp_path / "slurm-7.failure"
    failure.mkdir()  # root may write everywhere, but not here
    given = {"ASKED": str(asked), "PYTHON": fails(tmp_path), "SLURM_JOB_ID": "7"}
    done = launch("slurm.sbatch", **given, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 1 and "requeue" not in asked.read_text()
    assert f"launch: {failure} cannot be written, without which" in done.stderr
    asked.unlink()
    (tmp_path / "slurm-7.tasks").mkdir()
    done = launch("slurm.sbatch", **given, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2 and not asked.exists()
    assert f"launch: error: {tmp_path} cannot be written, and" in done.stderr


@pytest.mark.parametrize(
    "own, others, starts", [(2, 75, 1), (3, 137, 1), (1, 75, 2), (134, 143, 2), (75, 137, 3)]
)
def test_slurm_goes_by_the_task_that_failed_by_itself(tmp_path, own, others, starts):
    """The others end because of it, and srun's status is the highest."""
    asked, program = tmp_path / "asked", tmp_path / "python"
    program.write_text(
        f'#!/bin/bash\n[[ $SLURM_PROCID == 1 ]] && echo "error: its own" >&2 && exit {own}\n'
        f'sleep 0.2; echo "error: process 1 failed, $RANDOM" >&2; exit {others}\n'
    )
    program.chmod(0o755)
    given = {"ASKED": str(asked), "PYTHON": str(program), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    given |= {"SLURM_SUBMIT_DIR": str(tmp_path)}
    for start in range(3):
        asked.write_text("")
        done = launch("slurm.sbatch", **given, SLURM_RESTART_COUNT=str(start))
        again = "scontrol requeue 7" in asked.read_text()
        assert again is (start + 1 < starts or starts == 3), done.stderr
        assert done.returncode == (0 if again else own)
        assert (f"with status {own}: error: its own\n" in done.stderr) is (own != 75)
        if not again:
            break
    assert not list(tmp_path.glob("*.failure")) and not list(tmp_path.glob("*.tasks"))


def test_sigterm_to_the_task_of_slurm_alone_reaches_the_run(tmp_path):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\n{TRAPS.format(tmp_path)}\n")
    program.chmod(0o755)
    given = {**os.environ, "CANN_JAX_PROCESS": "0", "FAILURES": str(tmp_path / "failures")}
    task = subprocess.Popen([str(ROOT / "launch/slurm_task.sh"), str(program)], env=given)
    while not (tmp_path / "starts").exists():
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=40) == 75 and (tmp_path / "0").exists()
    assert (tmp_path / "failures").read_text() == "75 \n"


def fails(tmp_path: Path) -> str:
    program = tmp_path / "python"
    program.write_text('#!/bin/bash\necho "error: beta is -1" >&2; echo "srun: error: task 0" >&2; exit 1\n')
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("script", ["local.sh", "gpu_node.sh", "tpu_pod.sh"])
def test_the_last_error_is_shown_where_a_launcher_gives_up(tmp_path, script):
    words = {"local.sh": ("1", fails(tmp_path)), "gpu_node.sh": ("--x",), "tpu_pod.sh": ("run", "--x")}[
        script
    ]
    given = {**POD, "ASKED": str(tmp_path / "asked"), "PORT": "1", "REMOTE": str(tmp_path / "remote")}
    done = launch(script, *words, **given, PYTHON=fails(tmp_path), RESTARTS="1")
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("launch: ")][-2:]
    assert last == [
        "launch: ended with status 1; the last error was: error: beta is -1",
        "launch: ended with status 1 after 1 restarts; giving up",
    ]


def test_print_of_the_others():
    assert launch("gke.sh", "--print", "--config", "x.yaml", **JOBSET).stdout.startswith(
        "# A run on a TPU slice"
    )
    for script, words in (
        ("local.sh", ("2", "python", "-m", "cann_jax.train", "--config", "x.yaml")),
        ("gpu_node.sh", ("--config", "x.yaml")),
        ("slurm.sbatch", ("--config", "x.yaml")),
    ):
        done = launch(script, "--print", *words)
        assert done.returncode == 0 and "-m cann_jax.train --config x.yaml" in done.stdout, script


def test_no_secret_is_printed_or_put_into_a_manifest(tmp_path):
    """Nor said to a cloud's command: a pod gets its secrets from its cluster, a job from its environment."""
    jobset = {"IMAGE": "i", "HOSTS": "1", "CHIPS": "1", "ACCELERATOR": "a", "TOPOLOGY": "1x1"}
    flags, fails = ("--config", "x.yaml"), tmp_path / "fails"
    fails.write_text("#!/bin/bash\necho 'ValueError: a fault' >&2\nexit 2\n")
    fails.chmod(0o755)
    given = {
        **POD,
        **jobset,
        **SECRETS,
        "PORT": "1",
        "PYTHON": str(fails),
        "REMOTE": str(tmp_path / "remote"),
    }
    starts = {
        "gke.sh": ((), ("--print",)),
        "tpu_pod.sh": (("run",), ("--print", "run")),
        "gpu_node.sh": ((), ("--print",)),
        "slurm.sbatch": ((), ("--print",)),
        "local.sh": (("2", str(fails)), ("--print", "2", str(fails))),
    }
    for script, calls in starts.items():
        for number, call in enumerate(calls):
            asked = tmp_path / "asked" / f"{script}{number}"
            asked.parent.mkdir(exist_ok=True)
            own = {**given, "ASKED": str(asked)} | ({"PORT": ""} if script == "gke.sh" else {})
            done = launch(script, *call, *flags, SLURM_SUBMIT_DIR=str(tmp_path), **own)
            said = done.stdout + done.stderr
            assert (said or asked.exists()) and MARKER not in said, script
    assert {path.name for path in (tmp_path / "asked").iterdir()} > {
        "gke.sh0",
        "tpu_pod.sh0",
        "slurm.sbatch0",
    }
    assert not told(tmp_path)
