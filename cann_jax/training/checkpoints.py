"""Orbax checkpoints of the training state: atomic, the last n kept, errors raised."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from cann_jax.files.atomic import is_remote, writing
from cann_jax.files.errors import InputError
from cann_jax.runtime.placement import shapes_of_parameters
from cann_jax.training.step import TrainState


@contextlib.contextmanager
def saving(folder) -> Iterator[None]:
    """``writing`` for Orbax, whose storage library tells of a full disk by a ValueError of many lines.

    Raises:
        InputError: the disk is full or the folder cannot be written; the checkpoint before stays.
    """
    with writing(folder):
        try:
            yield
        except ValueError as error:
            if "No space left on device" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def absolute(folder) -> epath.Path:
    """Orbax asks for absolute paths; those of object stores are, and ``resolve`` would spoil them."""
    folder = epath.Path(folder)
    return folder if is_remote(folder) else folder.resolve()


class Checkpoints:
    """A run's checkpoints.

    Args:
        folder: Where they lie.
        keep: How many are kept.
        every: Steps between them.
    """

    def __init__(self, folder, keep: int, every: int):
        self.folder = absolute(folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with saving(self.folder):
            self.manager.close()

    def save(self, state: TrainState, *, last: bool = False) -> None:
        """Save where it is time to, or always for the last step. A failed earlier save is raised here."""
        with saving(self.folder):
            self.manager.save(int(state.step), args=ocp.args.StandardSave(_plain(state)), force=last)
            if last:
                self.manager.wait_until_finished()

    def drop(self, step: int) -> int | None:
        """Delete the checkpoint after ``step`` steps, if there is one; returns the newest that stays."""
        self.manager.wait_until_finished()
        if self.manager.latest_step() == step:
            self.manager.delete(step)
        return self.manager.latest_step()

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest checkpoint, each array where the mesh in use wants it, whatever mesh and however many
        processes saved it; None where there is none.

        Args:
            like: Its structure, shapes and dtypes.

        Raises:
            InputError: it cannot be read, is of another model, or an array does not lie where it should.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        folder, target = self.folder / str(step), _target(like)
        with _restoring(folder):
            check_saved(like, self.manager.item_metadata(step), folder)
            saved = self.manager.restore(step, args=ocp.args.StandardRestore(target))
        return _as_before(like, saved, folder)


@contextlib.contextmanager
def _restoring(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder} cannot be restored ({reason}); delete it to go on") from None


def save_weights(folder, weights) -> None:
    """The trained weights alone."""
    folder = absolute(folder)
    with saving(folder), ocp.StandardCheckpointer() as saver:
        saver.save(folder, _plain(weights), force=True)


def load_weights(folder, like):
    """Weights that ``save_weights`` wrote, with the structure of ``like``, where the mesh in use wants them.

    Raises:
        InputError: as ``Checkpoints.restore``.
    """
    folder, target = absolute(folder), _target(like)
    with ocp.StandardCheckpointer() as saver, _restoring(folder):
        check_saved(like, saver.metadata(folder).item_metadata, folder)
        saved = saver.restore(folder, target)
    return _as_before(like, saved, folder)


def check_saved(like, saved: Mapping[str, Any], folder) -> None:
    """Raise InputError, naming the array, where what was saved has not the shapes and dtypes of ``like``.

    Orbax would cast a dtype without a word, and tells of a shape by a page of its storage library's settings.
    """
    paths, wanted = _paths(like), _plain(like)
    if len(saved) != len(wanted):
        raise InputError(
            f"{folder} holds {len(saved)} arrays and this model trains {len(wanted)}: it is of another model "
            "or other adapters; delete it to go on"
        )
    for name, leaf in wanted.items():
        there, here = ((tuple(x.shape), str(x.dtype)) for x in (saved[name], leaf))
        if there != here:
            raise InputError(
                f"{folder}: {paths[name]} is {there[1]}{list(there[0])} and this model's {here[1]}"
                f"{list(here[0])}: it is of another model; delete it to go on"
            )


def check_placed(like, saved: Mapping[str, jax.Array], folder) -> None:
    """Raise InputError, naming the array, where one does not lie as ``PARAMETERS`` says on this mesh."""
    paths = _paths(like)
    for name, wanted in _target(like).items():
        if not saved[name].sharding.is_equivalent_to(wanted.sharding, len(wanted.shape)):
            raise InputError(
                f"{folder}: {paths[name]} was restored onto {saved[name].sharding} instead of "
                f"{wanted.sharding}; install the version of orbax-checkpoint in constraints.txt"
            )


def _target(like) -> dict:
    """Shapes, dtypes and places of what is to be restored."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(shapes_of_parameters(like)))


def _plain(tree) -> dict:
    """Leaves under running numbers: Orbax needs no knowledge of NNX or optax to store them."""
    return {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}


def _paths(tree) -> dict[str, str]:
    """Where each of these leaves stands in the tree, for messages."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {f"{index:04d}": name for index, name in enumerate(names)}


def _as_before(like, saved: dict, folder):
    check_placed(like, saved, folder)
    return jax.tree.unflatten(jax.tree.structure(like), [saved[name] for name in sorted(saved)])
