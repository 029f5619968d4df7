"""What is saved lies under its path in the tree, and is restored to that path alone."""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from cann_jax.files.errors import InputError
from cann_jax.training.checkpoint_digests import broken
from cann_jax.training.checkpoints import Checkpoints, load_weights, save_weights
from cann_jax.training.step import TrainState, start
from tests.builders.damage import DAMAGES, damaged
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
    with (
        pytest.raises(
            InputError, match=r"no checkpoint is left .*digests.json is missing.*delete the folder"
        ),
        Checkpoints(folder, keep=1, every=1),
    ):
        pass


def state_after(step: int) -> TrainState:
    """Values that no other step has; one array is too large for Orbax to store it beside its name."""
    values = np.random.default_rng(step).normal(size=(64, 32)).astype(np.float32)
    return TrainState(jnp.int32(step), {"a": jnp.asarray(values)}, {"mu": jnp.asarray(values[:2, :2])})


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """Checkpoints after 1, 2 and 3 steps, of which the second is the best."""
    folder = tmp_path_factory.mktemp("three")
    with Checkpoints(folder, keep=3, every=1, best=True) as checkpoints:
        for step, loss in enumerate((0.7, 0.5, 0.6), 1):
            checkpoints.save(state_after(step), last=step == 3, loss=loss)
    return folder


@pytest.fixture
def copy(three, tmp_path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "checkpoints"))


def restored(folder: Path, *, best: bool = False) -> int:
    """Restore the newest checkpoint, see that it is whole, and return its step."""
    with Checkpoints(folder, keep=3, every=1, best=best) as checkpoints:
        state = checkpoints.restore(state_after(0))
    jax.tree.map(np.testing.assert_array_equal, state, state_after(int(state.step)))
    return int(state.step)


def test_damage_of_any_file_is_seen(copy):
    """Orbax restores most flipped bytes of an array as another number."""
    checkpoint, seen = epath.Path(copy / "3"), 0
    paths = [path for path in (copy / "3").rglob("*") if path.is_file()]
    for path in paths:
        for kind in DAMAGES:
            with damaged(path, kind):
                found = broken(checkpoint)
                # The commit's file says nothing, and the other of Orbax's own only when.
                own = path.parent.name == "3" and path.name in ("commit_success.txt", "_CHECKPOINT_METADATA")
                assert own or (found and (path.name in found or path.name == "digests.json")), (path, kind)
                seen += bool(found)
    assert seen > 30 and broken(checkpoint) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_training_goes_on_from_the_newest_that_is_whole(copy, kind, capsys):
    largest = max((copy / "3").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    with damaged(largest, kind):
        assert restored(copy) == 2
        said = capsys.readouterr().out.splitlines()
        assert len(said) == 1 and "that after step 3" in said[0] and said[0].endswith("going on after step 2")
        assert largest.name in said[0]
        with Checkpoints(copy, keep=3, every=1) as checkpoints:
            checkpoints.save(state_after(3), last=True)
        assert restored(copy) == 3 and not capsys.readouterr().out


def test_what_follows_a_damaged_best_is_made_again(copy, capsys):
    """Its loss may be what was damaged, and what it was is not known then."""
    metrics = copy / "2/metrics/metrics"
    metrics.write_text(metrics.read_text().replace("0.5", "0.9"))
    assert restored(copy, best=True) == 1
    assert "that after step 2: metrics/metrics was altered" in capsys.readouterr().out
    assert sorted(path.name for path in copy.iterdir()) == ["1"]


def test_what_was_being_deleted_is_not_missed(copy, capsys):
    """Killed while Orbax deleted the checkpoint that the second surpassed."""
    shutil.rmtree(copy / "1/default")
    assert restored(copy, best=True) == 3
    assert "that after step 1: default/" in capsys.readouterr().out
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3"]


def test_where_none_is_whole_nothing_is_deleted(copy):
    for step in "123":
        (copy / step / "digests.json").unlink()
    with pytest.raises(
        InputError, match=r"step 3: digests.json is missing.* train from the start$"
    ) as caught:
        restored(copy)
    assert "\n" not in str(caught.value) and len(list(copy.iterdir())) == 3


def test_a_best_that_is_damaged_in_the_end_is_not_kept(copy):
    with Checkpoints(copy, keep=3, every=1, best=True) as checkpoints:
        assert checkpoints.best_step() == 2
        (copy / "2/metrics/metrics").write_text("{}")
        with pytest.raises(InputError, match=r"2 is damaged \(metrics/metrics was altered\); start again"):
            checkpoints.restore(state_after(0), 2)


def test_weights_that_cannot_be_read_are_named(tmp_path):
    weights = state_after(1).weights
    save_weights(tmp_path / "weights", weights)
    largest = max((tmp_path / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(InputError, match=r"weights cannot be restored \(.*; delete it and start again$"):
        load_weights(tmp_path / "weights", weights)
