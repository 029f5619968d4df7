"""Two processes run every stage; one is killed in the middle, and the job ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from tests.stages.setting import ROOT, command, write_config

FLAGS = ("--align.prompts_per_step", "4", "--mesh.fsdp", "2", "--distributed.heartbeat_timeout_seconds", "10")


def environment(devices: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "RESTART_SECONDS": "0"}


def weights(folder: Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(folder / "align/weights").item_metadata
        here = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in saved.items()}
        return {
            name: np.asarray(leaf) for name, leaf in reader.restore(folder / "align/weights", here).items()
        }


def kill_one(parent: int) -> None:
    """SIGKILL to the second of the launcher's processes."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
    workers = [int(line.split()[0]) for line in listed.stdout.splitlines() if "cann_jax.train" in line]
    os.kill(workers[1], signal.SIGKILL)


def test_one_of_two_killed(tiny_folder, tmp_path):
    config = write_config(tmp_path, tiny_folder)
    alone = [*command(config, *FLAGS), "--name", "alone"]
    done = subprocess.run(alone, cwd=ROOT, env=environment(2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    together = [str(ROOT / "launch/local.sh"), "2", *command(config, *FLAGS), "--name", "together"]
    job = subprocess.Popen(
        together, cwd=ROOT, env=environment(1), stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "runs/together"
    while not (folder / "align/settings.json").exists():
        assert job.poll() is None, job.stderr.read()[-3000:]
        time.sleep(0.05)
    kill_one(job.pid)
    _, said = job.communicate(timeout=900)
    assert job.returncode == 0, said[-3000:]
    assert "process 1 ended with status 137; ending all 2" in said
    duals = [json.loads((tmp_path / f"runs/{n}/dual/dual.json").read_text()) for n in ("alone", "together")]
    np.testing.assert_allclose(duals[0]["multipliers"], duals[1]["multipliers"], atol=1e-5)
    ours, theirs = weights(folder), weights(tmp_path / "runs/alone")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
