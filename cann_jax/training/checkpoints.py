"""Orbax checkpoints of the training state: atomic, the last n kept, errors raised."""

import contextlib
import errno
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp
from etils import epath

from cann_jax.artifacts import writing
from cann_jax.errors import InputError
from cann_jax.training.accumulate import TrainState


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


class Checkpoints:
    """A run's checkpoints.

    Args:
        folder: Where they lie.
        keep: How many are kept.
        every: Steps between them.
    """

    def __init__(self, folder, keep: int, every: int):
        self.folder = epath.Path(folder).resolve()  # Orbax asks for absolute paths
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager = ocp.CheckpointManager(self.folder, options=options)

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
        """The newest checkpoint with the structure and placement of ``like``; None where there is none.

        Raises:
            InputError: it cannot be read.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        try:
            saved = self.manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.folder / str(step)} cannot be restored ({reason}); delete it to go on"
            ) from None
        return _as_before(like, saved)


def save_weights(folder, weights) -> None:
    """The trained weights alone."""
    folder = epath.Path(folder).resolve()
    with saving(folder), ocp.StandardCheckpointer() as saver:
        saver.save(folder, _plain(weights), force=True)


def load_weights(folder, like):
    """Weights that ``save_weights`` wrote, with the structure and placement of ``like``."""
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
    with ocp.StandardCheckpointer() as saver:
        saved = saver.restore(epath.Path(folder).resolve(), target)
    return _as_before(like, saved)


def _plain(tree) -> dict:
    """Leaves under running numbers: Orbax needs no knowledge of NNX or optax to store them."""
    return {f"{index:04d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}


def _as_before(like, saved: dict):
    return jax.tree.unflatten(jax.tree.structure(like), [saved[name] for name in sorted(saved)])
