"""What is saved lies under its path in the tree, and is restored to that path alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cann_jax.files.errors import InputError
from cann_jax.training.checkpoints import Checkpoints, load_weights, save_weights
from cann_jax.training.step import TrainState, start
from tests.builders.training import make_spec


def paths_of(tree) -> set[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_arrays_lie_under_their_parameters_path(parts, tmp_path):
    graph, weights, _ = parts
    with Checkpoints(tmp_path, keep=1, every=1) as checkpoints:
        checkpoints.save(start(make_spec(graph), weights), last=True)
        saved = paths_of(dict(checkpoints.manager.item_metadata(0)))
    adapters = {
        f"layers/{module}/lora/{matrix}"
        for module in ("attention/q_proj", "attention/v_proj", "mlp/down_proj")
        for matrix in "ab"
    }
    moments = {f"optimizer/1/0/{name}/{path}" for name in ("mu", "nu") for path in adapters}
    counts = {"step", "optimizer/1/0/count", "optimizer/1/2/count"}
    assert saved == {f"weights/{path}" for path in adapters} | moments | counts


@pytest.fixture
def projections() -> dict[str, jax.Array]:
    """Two parameters of equal shape."""
    return {"k_proj": jnp.zeros((4, 2)), "v_proj": jnp.ones((4, 2))}


def test_equal_shapes_are_told_apart_by_name(projections, tmp_path):
    """Under running numbers the keys' weights would be read as the queries', and the values' as the keys'."""
    save_weights(tmp_path / "weights", projections)
    with pytest.raises(InputError, match=r"weights: q_proj is missing \(2 arrays .* has 2\)") as caught:
        load_weights(tmp_path / "weights", {"q_proj": jnp.zeros((4, 2)), "k_proj": jnp.zeros((4, 2))})
    assert "\n" not in str(caught.value) and "delete it to train again" in str(caught.value)


class ValuesFirst(NamedTuple):
    """The same parameters in another order: leaf 0 is the second of a dictionary, which is sorted."""

    v_proj: jax.Array
    k_proj: jax.Array


def test_equal_shapes_in_another_order_go_to_their_names(projections, tmp_path):
    save_weights(tmp_path / "weights", projections)
    restored = load_weights(tmp_path / "weights", ValuesFirst(jnp.zeros((4, 2)), jnp.zeros((4, 2))))
    np.testing.assert_array_equal(restored.k_proj, projections["k_proj"])
    np.testing.assert_array_equal(restored.v_proj, projections["v_proj"])


OLD = r"is of an older version, which numbered its arrays .*; delete {folder} to train again$"


def test_numbered_weights_are_refused(projections, tmp_path):
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "weights", {"0000": projections["k_proj"], "0001": projections["v_proj"]})
    with pytest.raises(InputError, match=f"/weights {OLD.format(folder=tmp_path)}"):
        load_weights(tmp_path / "weights", projections)


def test_numbered_checkpoints_are_refused(projections, tmp_path):
    state = TrainState(jnp.int32(2), projections, {})
    numbered = {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep=1, every=1) as checkpoints:
        checkpoints.manager.save(2, args=ocp.args.StandardSave(numbered))
        checkpoints.manager.wait_until_finished()
        with pytest.raises(InputError, match=f"/checkpoints {OLD.format(folder=tmp_path)}"):
            checkpoints.restore(state)
