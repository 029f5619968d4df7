"""A checkpoint goes on anywhere: on another mesh, on one device, in another number of processes."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.training.checkpoints import load_weights, save_weights
from tests.builders.damage import changed
from tests.builders.processes import finish, start, start_together

PROGRAM = ["-m", "tests.runtime.sharding.resume"]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory) -> Path:
    """Six steps on one device."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start([*PROGRAM, str(tiny_folder), "1x1x1", str(folder), "6"], 8))
    return folder


@pytest.fixture(scope="module")
def saved(tiny_folder, tmp_path_factory) -> Path:
    """The first three, by one process on 2×2×2."""
    folder = tmp_path_factory.mktemp("saved")
    finish(start([*PROGRAM, str(tiny_folder), "2x2x2", str(folder), "3"], 8))
    return folder


@pytest.mark.parametrize("mesh, processes", [("4x2x1", 1), ("1x1x1", 1), ("2x2x2", 2)])
def test_goes_on_elsewhere(mesh, processes, saved, undisturbed, tiny_folder, tmp_path):
    """Also where the newest checkpoint is damaged: no process may take it."""
    folder = shutil.copytree(saved, tmp_path / "copy")
    newest = shutil.copytree(folder / "checkpoints/3", folder / "checkpoints/5")
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(changed(largest.read_bytes(), "flipped"))
    command = [*PROGRAM, str(tiny_folder), mesh, str(folder), "6"]
    finish(*([start(command, 8)] if processes == 1 else start_together(command, 8 // processes, processes)))
    for ours, theirs in zip(arrays(folder / "restored-3.npz"), arrays(saved / "saved-3.npz"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found, whole = losses(folder), losses(undisturbed)
    assert len(found) == 6 and abs(whole[0] - whole[-1]) > 1e-3
    np.testing.assert_allclose(found, whole, atol=1e-5)


MISPLACED = """
import jax
from cann_jax.config.mesh import MeshConfig
from cann_jax.files.errors import InputError
from cann_jax.runtime.mesh import make_mesh, on_mesh
from cann_jax.runtime.placement import place
from cann_jax.training.checkpoints import check_placed
from jax.sharding import PartitionSpec
import numpy as np
with on_mesh(make_mesh(MeshConfig(2, 2, 2))):
    like = {"embedding": place(np.zeros((4, 4)), PartitionSpec(None, "fsdp"))}
    check_placed(like, like, "run")
    try:
        check_placed(like, {"embedding": place(np.zeros((4, 4)), PartitionSpec())}, "run")
    except InputError as error:
        print(error)
"""


def test_an_array_in_the_wrong_place_is_named():
    """Orbax puts arrays where it is told to; did it not, nothing would tell before memory ran out."""
    ((said, _),) = finish(start(["-c", MISPLACED], 8))
    assert said.startswith("run: embedding was restored onto NamedSharding") and said.count("\n") == 1


@pytest.mark.parametrize(
    "like, message",
    [
        ({"scale": jnp.zeros(6)}, r"norm/scale is float32\[4\] and should be float32\[6\]: it is of another"),
        ({"scale": jnp.zeros(4, jnp.bfloat16)}, r"norm/scale is float32\[4\] and should be bfloat16\[4\]"),
        ({"scale": jnp.zeros(4), "shift": jnp.zeros(4)}, r"norm/shift is missing \(1 arrays .* has 2\)"),
        ({"shift": jnp.zeros(4)}, "norm/shift is missing"),
        ({}, "norm/scale is unknown"),
    ],
)
def test_weights_of_another_model(like, message, tmp_path):
    save_weights(tmp_path / "weights", {"final_norm": {"scale": jnp.zeros(4)}})
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / "weights", {"final_norm": like})
