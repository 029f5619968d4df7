"""Workers of one job run every stage; one is killed in the middle, and the job ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cann_jax.core.scale import POINTS
from tests.builders import ROOT
from tests.builders.processes import environment, free_port
from tests.builders.runs import STAGES, calibrated_changes, command, saved_weights, write_config

HEARTBEAT = 100  # seconds; far more than a loaded machine needs to notice a killed process at once
FLAGS = ("--align.prompts_per_step", "4", "--mesh.fsdp", "2")
FLAGS += ("--distributed.heartbeat_timeout_seconds", str(HEARTBEAT))
STAND_INS = Path(__file__).resolve().parent


def calibrated_config(folder: Path, model: Path) -> str:
    return write_config(folder, model, **calibrated_changes(folder))


@pytest.fixture(scope="module")
def alone(tiny_folder, tmp_path_factory) -> Path:
    """The folder of an undisturbed run on two devices of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run = command(calibrated_config(folder, tiny_folder), *FLAGS)
    done = subprocess.run(run, cwd=ROOT, env=environment(2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs/tiny"


def assert_equal(folder: Path, alone: Path) -> None:
    assert all((folder / stage / "manifest.json").exists() for stage in (*STAGES, "calibrate"))
    duals = [json.loads((each / "dual/dual.json").read_text()) for each in (alone, folder)]
    np.testing.assert_allclose(duals[0]["multipliers"], duals[1]["multipliers"], atol=1e-5)
    ours, theirs = saved_weights(folder / "align/weights"), saved_weights(alone / "align/weights")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    scales = [json.loads((each / "calibrate/scale.json").read_text())["scale"] for each in (alone, folder)]
    assert scales[1] == pytest.approx(scales[0], abs=2 * 4 / (POINTS - 1)) and scales[0] > 0


def worker(config: str, index: int) -> int:
    """The process of the run that is number ``index``."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            variables = (path / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        of_run = words[1:3] == [b"-m", b"cann_jax.train"] and config.encode() in words
        if of_run and f"CANN_JAX_PROCESS={index}".encode() in variables:
            return int(path.name)
    raise LookupError(index)


def kill_in_training(job: subprocess.Popen, config: str, folder: Path, index: int) -> float:
    """SIGKILL to one worker once training has begun; returns when."""
    while not (folder / "align/settings.json").exists():
        assert job.poll() is None, job.stderr.read()[-3000:]
        time.sleep(0.05)
    os.kill(worker(config, index), signal.SIGKILL)
    return time.monotonic()


def start(arguments: list[str], **variables: str) -> subprocess.Popen:
    path = f"{STAND_INS}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = environment(RESTART_SECONDS="0", PATH=path, PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen(
        arguments, cwd=ROOT, env=given, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )


def seconds_until_said(job: subprocess.Popen, words: str, since: float) -> float:
    for line in job.stderr:
        if words in line:
            return time.monotonic() - since
    raise AssertionError(f"never said: {words}")


def test_local_with_a_process_killed(alone, tiny_folder, tmp_path):
    config, folder = calibrated_config(tmp_path, tiny_folder), tmp_path / "runs/tiny"
    job = start([str(ROOT / "launch/local.sh"), "2", *command(config, *FLAGS)])
    since = kill_in_training(job, config, folder, 1)
    assert seconds_until_said(job, "process 1 ended with status 137; ending all 2", since) < HEARTBEAT
    _, said = job.communicate(timeout=900)
    assert job.returncode == 0 and "starting the whole job again (1 of 100)" in said, said[-3000:]
    assert_equal(folder, alone)


def test_pod_with_a_worker_killed(alone, tiny_folder, tmp_path):
    """The launcher sees nothing but the end of all workers: the others must notice and end by themselves."""
    config, folder = calibrated_config(tmp_path, tiny_folder), tmp_path / "runs/tiny"
    given = {"NAME": "pod", "ZONE": "z", "TYPE": "v5litepod-8", "POLL_SECONDS": "0", "INSTALL": "true"}
    given |= {"PORT": str(free_port()), "PYTHON": sys.executable, "REMOTE": str(tmp_path / "remote")}
    run = [str(ROOT / "launch/tpu_pod.sh"), "run", "--config", config, *FLAGS]
    job = start(run, ASKED=str(tmp_path / "asked"), **given)
    since = kill_in_training(job, config, folder, 1)
    # A second heartbeat's time for the survivor to end, on a machine that has other things to do.
    assert seconds_until_said(job, "starting the whole job again (1 of 100)", since) < 2 * HEARTBEAT
    _, said = job.communicate(timeout=900)
    assert job.returncode == 0, said[-3000:]
    assert_equal(folder, alone)


KUBERNETES = {"IMAGE": "i", "HOSTS": "2", "CHIPS": "1", "ACCELERATOR": "a", "TOPOLOGY": "2x1", "NAME": "run"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize("script, variables", [("gke.sh", KUBERNETES), ("slurm.sbatch", SLURM)])
def test_other_launchers_begin_a_real_run(script, variables, alone, tiny_folder, tmp_path):
    config, folder = calibrated_config(tmp_path, tiny_folder), tmp_path / "runs/tiny"
    given = {
        "ASKED": str(tmp_path / "asked"),
        "PORT": str(free_port()),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    job = start(
        [str(ROOT / "launch" / script), "--config", config, *FLAGS, "--stages", "sample"],
        **given,
        **variables,
    )
    _, said = job.communicate(timeout=300)
    assert job.returncode == 0, said[-3000:]
    ours, theirs = (
        pq.read_table(each / "sample/responses-000000-000004.parquet") for each in (folder, alone)
    )
    assert ours.column("text").equals(theirs.column("text"))
