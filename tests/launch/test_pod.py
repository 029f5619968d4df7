"""How tpu_pod.sh makes, uses and deletes a machine, with a stand-in for gcloud."""

import re
import shlex
from pathlib import Path

import pytest

from tests.builders.launchers import POD, launch


def test_print_runs_nothing(tmp_path):
    asked = tmp_path / "asked"
    done = launch("tpu_pod.sh", "--print", "run", "--config", "a b.yaml", ASKED=str(asked), **POD)
    assert done.returncode == 0 and not asked.exists()
    lines = done.stdout.splitlines()
    assert [line.split()[4] for line in lines] == ["create", "ssh", "scp", "ssh", "ssh"]
    assert "--accelerator-type v5litepod-16" in lines[0] and "--worker all" in lines[4]


def test_a_pod_is_made_used_and_resumed_after_preemption(tmp_path):
    """The first run of the program finds its machine gone: it is made anew, and the run started again."""
    asked, program = tmp_path / "asked", tmp_path / "python"
    program.write_text(
        f"#!/bin/bash\nran='ran $CANN_JAX_PROCESS $CANN_JAX_DISTRIBUTED'\n"
        f'[[ -e {tmp_path}/second ]] && eval "echo $ran" && exit 0\n'
        f"sleep 0.5; touch {tmp_path}/second; echo PREEMPTED >{asked}.states; exit 255\n"
    )
    program.chmod(0o755)
    given = {
        **POD,
        "ASKED": str(asked),
        "PORT": "1",
        "PYTHON": str(program),
        "REMOTE": str(tmp_path / "remote"),
    }
    done = launch("tpu_pod.sh", "run", "--config", "x.yaml", **given)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("ran")]
    assert sorted(said) == ["ran 0 auto", "ran 1 auto"]
    used = ["create", "ssh", "scp", "ssh", "ssh"]
    assert done_with(asked) == [*used, "delete", *used]
    assert (tmp_path / "remote/cann_jax/train.py").exists() and not (tmp_path / "remote/launch").exists()
    assert launch("tpu_pod.sh", "delete", **given).returncode == 0 and not Path(f"{asked}.states").exists()


def done_with(asked: Path) -> list[str]:
    """What gcloud was asked to do, but for questions."""
    return [line.split()[3] for line in asked.read_text().splitlines() if "describe" not in line]


USED = ["ssh", "scp", "ssh", "ssh"]
UNREADABLE = "error: the state of pod cannot be read (ERROR: PERMISSION_DENIED: not this account); check"
UNREADABLE += " gcloud auth login, the project and ZONE\n"
LEFT = "is left as it is; start it, or delete it with launch/tpu_pod.sh delete\n"


@pytest.mark.parametrize(
    "states, variables, kinds, said",
    [
        ("READY", {}, USED, "pod is there"),
        ("CREATING STARTING READY", {}, USED, "waiting for pod, which is STARTING"),
        ("TERMINATED", {}, ["delete", "create", *USED], "pod is TERMINATED; making it again"),
        ("REPAIRING", {}, [], f"; the last error was: error: pod is REPAIRING and {LEFT}"),
        ("CREATING DENIED", {}, [], UNREADABLE),
        ("", {"MADE": "CREATING\\nPREEMPTED"}, ["create"], "pod was made, and is PREEMPTED"),
        ("WAITING_FOR_RESOURCES ACTIVE READY", {"QUEUED": "1"}, USED, "which is WAITING_FOR_RESOURCES"),
        ("SUSPENDED", {"QUEUED": "1"}, ["delete", "create", *USED], "pod is SUSPENDED; making it again"),
        ("", {"QUEUED": "1", "MADE": "ACCEPTED\\nFAILED"}, ["create"], "pod was made, and is FAILED"),
    ],
)
def test_a_pod_is_deleted_only_where_the_cloud_took_it(tmp_path, states, variables, kinds, said):
    asked = tmp_path / "asked"
    if states:
        Path(f"{asked}.states").write_text("".join(f"{state}\n" for state in states.split()))
    given = {**POD, "ASKED": str(asked), "PORT": "1", "PYTHON": "true", "REMOTE": str(tmp_path / "remote")}
    done = launch("tpu_pod.sh", "run", **given, **variables, RESTARTS="0")
    assert done.returncode == (0 if kinds[-4:] == USED else 75), done.stderr
    assert said in done.stderr and done_with(asked) == kinds


@pytest.mark.parametrize(
    "state, said", [("DENIED", UNREADABLE), ("STOPPED", f"error: pod is STOPPED and {LEFT}")]
)
def test_what_only_its_user_can_mend_ends_the_job_of_a_pod_at_once(tmp_path, state, said):
    asked = tmp_path / "asked"
    Path(f"{asked}.states").write_text(f"{state}\n")
    done = launch("tpu_pod.sh", "run", **POD, ASKED=str(asked))
    assert done.returncode == 2 and done_with(asked) == []
    assert done.stderr == f"launch: {said}launch: ended with status 2; the last error was: {said}"


def test_a_state_that_could_be_read_before_is_read_again(tmp_path):
    asked = tmp_path / "asked"
    Path(f"{asked}.states").write_text("CREATING\nDENIED\nREADY\n")
    given = {**POD, "ASKED": str(asked), "PORT": "1", "PYTHON": "true", "REMOTE": str(tmp_path / "remote")}
    done = launch("tpu_pod.sh", "run", **given)
    assert done.returncode == 0 and "ended with status 75; starting the whole job again (1 of" in done.stderr


@pytest.mark.parametrize(
    "refused, tries",
    [
        ("PERMISSION_DENIED: not yours\n- '@type': of the cloud", 1),
        ("INVALID_ARGUMENT: no such type", 1),
        ("RESOURCE_EXHAUSTED: no capacity", 2),
    ],
)
@pytest.mark.parametrize("queued", ["", "1"])
def test_a_machine_that_the_cloud_refuses_for_good_is_asked_for_once(tmp_path, refused, tries, queued):
    asked = tmp_path / "asked"
    given = {**POD, "ASKED": str(asked), "REFUSED": refused, "QUEUED": queued, "RESTARTS": "1"}
    done = launch("tpu_pod.sh", "run", **given, RESTART_SECONDS="0")
    assert done.returncode == (2 if tries == 1 else 75) and done_with(asked) == ["create"] * tries
    assert f"the last error was: ERROR: (gcloud) {refused.splitlines()[0]}\n" in done.stderr


@pytest.mark.parametrize(
    "of_process, ended",
    [
        ("python3 -m cann_jax.train --config configs/a.yaml", True),
        ("/home/me/.venv/bin/python3.12 -m cann_jax.train", True),
        ("bash -c cd cann_jax && python3 -m cann_jax.train --config configs/a.yaml", False),
        ("python3 -m cann_jax.trainer", False),
    ],
)
def test_stop_signals_the_workers_python_alone(of_process, ended):
    """The shell around it would end at once, and the launcher take the run for lost."""
    *_, command = shlex.split(launch("tpu_pod.sh", "--print", "stop", **POD).stdout)
    signalled, _, otherwise = command.partition(" || ")
    program, sent, by_line, pattern = shlex.split(signalled)
    assert (program, sent, by_line) == ("pkill", "-TERM", "-f") and otherwise.startswith("echo ")
    assert bool(re.search(pattern, of_process)) == ended
