"""The launchers' logic, with stand-ins for gcloud, kubectl and srun on the PATH."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.builders import ROOT

STAND_INS = Path(__file__).resolve().parent


def launch(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RESTART_SECONDS": "0", "GRACE_SECONDS": "2", **variables}
    environment["PATH"] = f"{STAND_INS}:{Path(sys.executable).parent}:{environment['PATH']}"
    command = [str(ROOT / "launch" / script), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_all_processes_see_each_other_and_end():
    done = launch("local.sh", "3", "bash", "-c", "echo $CANN_JAX_PROCESS of $CANN_JAX_PROCESSES")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["0 of 3", "1 of 3", "2 of 3"]


def test_a_lost_process_ends_and_restarts_all(tmp_path):
    """The first time, process 1 is killed while 0 would go on for a minute."""
    first = f"[[ -e {tmp_path}/again ]] && exit 0; [[ $CANN_JAX_PROCESS == 0 ]] && exec sleep 60; "
    first += f"sleep 0.5; touch {tmp_path}/again; kill -KILL $$"
    begun = time.monotonic()
    done = launch("local.sh", "2", "bash", "-c", first)
    assert done.returncode == 0 and time.monotonic() - begun < 30
    assert "process 1 ended with status 137; ending all 2" in done.stderr
    assert "starting the whole job again (1 of 100)" in done.stderr


@pytest.mark.parametrize("status, starts", [(2, 1), (3, 1), (4, 1), (75, 3)])
def test_bad_input_is_not_tried_again(tmp_path, status, starts):
    count = f"echo x >> {tmp_path}/starts; exit {status}"
    done = launch("local.sh", "1", "bash", "-c", count, RESTARTS="2")
    assert done.returncode == status
    assert (tmp_path / "starts").read_text().count("x") == starts


def test_sigterm_reaches_every_process(tmp_path):
    waits = f"trap 'touch {tmp_path}/$CANN_JAX_PROCESS; exit 75' TERM; touch {tmp_path}/up; sleep 60 & wait"
    command = [str(ROOT / "launch/local.sh"), "2", "bash", "-c", waits]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 75
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


POD = {"NAME": "pod", "ZONE": "z", "TYPE": "v5litepod-16", "POLL_SECONDS": "0", "INSTALL": "true"}


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
        f"sleep 0.5; touch {tmp_path}/second; rm -f {asked}.ready; exit 255\n"
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
    assert sorted(done.stdout.split("\n"))[1:] == ["ran 0 auto", "ran 1 auto"]
    kinds = [line.split()[3] for line in asked.read_text().splitlines() if "describe" not in line]
    assert kinds == 2 * ["delete", "create", "ssh", "scp", "ssh", "ssh"]
    assert (tmp_path / "remote/cann_jax/train.py").exists() and not (tmp_path / "remote/launch").exists()
    assert launch("tpu_pod.sh", "delete", **given).returncode == 0 and not Path(f"{asked}.ready").exists()


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


def test_print_of_the_others():
    given = {"NAME": "r", "IMAGE": "i", "HOSTS": "2", "CHIPS": "4", "ACCELERATOR": "a", "TOPOLOGY": "2x4"}
    assert launch("gke.sh", "--print", "--config", "x.yaml", **given).stdout.startswith(
        "# A run on a TPU slice"
    )
    for script, words in (
        ("local.sh", ("2", "python", "-m", "cann_jax.train", "--config", "x.yaml")),
        ("gpu_node.sh", ("--config", "x.yaml")),
        ("slurm.sbatch", ("--config", "x.yaml")),
    ):
        done = launch(script, "--print", *words)
        assert done.returncode == 0 and "-m cann_jax.train --config x.yaml" in done.stdout, script
