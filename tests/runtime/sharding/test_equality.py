"""The same numbers on one device, on eight as three meshes, and on two processes of four."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.builders.processes import finish, start, start_together

PROGRAM = ["-m", "tests.runtime.sharding.program"]


def on_one_process(model: Path, mesh: str, folder: Path) -> dict:
    out = folder / f"{mesh}.json"
    finish(start([*PROGRAM, str(model), mesh, str(out)], 8))
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
    assert (np.array(found["resampled"]) != theirs).any(-1).sum() <= 1
    assert alone["in_slots"] == alone["tokens"]
    assert (np.array(found["in_slots"]) != theirs).any(-1).sum() <= 1
    assert len({np.count_nonzero(row) for row in theirs.reshape(-1, 8)}) > 4
    for key in ("logps", "scores", "features"):
        a, b = (np.array(each[key])[~changed] for each in (found, alone))
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("mesh", ["8x1x1", "2x4x1", "2x2x2"])
def test_one_process(mesh, alone, tiny_folder, tmp_path):
    assert_equal(on_one_process(tiny_folder, mesh, tmp_path), alone, same_tokens=mesh == "8x1x1")


def test_two_processes(alone, tiny_folder, tmp_path):
    out = tmp_path / "out.json"
    finish(*start_together([*PROGRAM, str(tiny_folder), "2x2x2", str(out)], 4))
    assert_equal(json.loads(out.read_text()), alone, same_tokens=False)
