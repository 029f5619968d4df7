"""The same numbers on one device, on eight as three meshes, and on two processes of four."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def start(arguments: list[str], devices: int, **variables: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Eight devices compile eight ways; what is compiled here runs for milliseconds.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        **variables,
    }
    command = [sys.executable, "-m", "tests.sharding.program", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said[-3000:]


def on_one_process(model: Path, mesh: str, folder: Path) -> dict:
    out = folder / f"{mesh}.json"
    finish(start([str(model), mesh, str(out)], 8))
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def alone(tiny_folder, tmp_path_factory) -> dict:
    return on_one_process(tiny_folder, "1x1x1", tmp_path_factory.mktemp("alone"))


def assert_equal(found: dict, alone: dict, same_tokens: bool) -> None:
    for key in ("lora", "full"):
        assert len(found[key]) == 20 and abs(alone[key][0] - alone[key][-1]) > 1e-3
        np.testing.assert_allclose(found[key], alone[key], atol=1e-5, err_msg=key)
    np.testing.assert_allclose(found["multipliers"], alone["multipliers"], rtol=1e-5, atol=1e-5)
    assert min(alone["multipliers"]) > 0.01
    ours, theirs = (np.array(each["tokens"]) for each in (found, alone))
    assert same_tokens is False or np.array_equal(ours, theirs)
    changed = (ours != theirs).any(-1)
    print(f"{changed.sum()} of {changed.size} responses differ")
    assert changed.sum() <= 1
    for key in ("logps", "scores"):
        a, b = (np.array(each[key])[~changed] for each in (found, alone))
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("mesh", ["8x1x1", "2x4x1", "2x2x2"])
def test_one_process(mesh, alone, tiny_folder, tmp_path):
    assert_equal(on_one_process(tiny_folder, mesh, tmp_path), alone, same_tokens=mesh == "8x1x1")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def test_two_processes(alone, tiny_folder, tmp_path):
    coordinator, out = f"localhost:{free_port()}", tmp_path / "out.json"
    processes = [
        start(
            [str(tiny_folder), "2x2x2", str(out)],
            4,
            CANN_JAX_COORDINATOR=coordinator,
            CANN_JAX_PROCESSES="2",
            CANN_JAX_PROCESS=str(index),
        )
        for index in range(2)
    ]
    for process in processes:
        finish(process)
    assert_equal(json.loads(out.read_text()), alone, same_tokens=False)
