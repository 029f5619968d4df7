"""SIGTERM while training: the step at hand is saved, the status says "again", and the next start goes on."""

import signal
import subprocess
import time

import numpy as np

from tests.builders import ROOT
from tests.builders.processes import environment
from tests.builders.runs import command, run_process, saved_weights, write_config


def test_sigterm_in_training(finished, tiny_folder, tmp_path):
    config, folder = write_config(tmp_path, tiny_folder), tmp_path / "runs/tiny"
    run = subprocess.Popen(
        command(config),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "align/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):  # it is there, and empty, before the first step
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 75, said
    assert "stopped: align: saved after step" in said
    again = run_process(config)
    assert again.returncode == 0, again.stderr
    assert "align: resumed after step" in again.stdout
    ours, theirs = (
        saved_weights(folder / "align/weights"),
        saved_weights(finished / "runs/tiny/align/weights"),
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
