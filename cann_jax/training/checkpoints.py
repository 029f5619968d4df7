"""Orbax checkpoints of the training state, each array under its parameter path."""

import contextlib
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from cann_jax.files.atomic import writing
from cann_jax.files.errors import InputError
from cann_jax.files.paths import is_remote
from cann_jax.runtime.distributed import agreed, barrier, is_first
from cann_jax.runtime.placement import shapes_of_parameters
from cann_jax.training.checkpoint_digests import Loss, broken, drop_damaged, rows_digest, seal
from cann_jax.training.step import TrainState

LOSS = "heldout_loss"

# Orbax raises what goes wrong, and logs it too: 340 lines of tracebacks for one full disk. Where several
# arrays cannot be written it awaits one; asyncio tells of the others when they are collected, and Python of
# the storage library's calls into the event loop that is closed by then.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").addFilter(
    lambda record: (
        not isinstance((record.exc_info or (None, None))[1], OSError) and "orbax" not in record.getMessage()
    )
)
_tell = sys.unraisablehook
sys.unraisablehook = lambda error: None if str(error.exc_value) == "Event loop is closed" else _tell(error)


class Checkpoints:
    """The checkpoints of a training: one ``every`` so many steps.

    The newest ``keep`` of them are kept, and with ``best`` the one of the least loss that ``save`` was told.
    Damaged ones are deleted first.
    """

    def __init__(self, folder: epath.PathLike, keep: int, every: int, *, best: bool = False):
        self.folder, self.best = _absolute(folder), best
        # Of the checkpoint being written: steps, digest of the metrics, and the best one before it.
        self.saving, self.rows = 0, ""
        self.before: Loss | None = None
        options = _options(keep, every, best)
        options.async_options = ocp.AsyncOptions(post_finalization_callback=self._before_commit)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_first():
                drop_damaged(self.folder)
            barrier("checkpoints looked through")
            self.manager = ocp.CheckpointManager(
                self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with writing(self.folder):
            self.manager.close()

    def save(
        self, state: TrainState, *, last: bool = False, loss: float | None = None, rows: str = ""
    ) -> None:
        """Save the state if it is due, or in any case if it is the ``last``.

        ``loss`` is what the ``best`` has the least of; None where it is not known. ``rows`` is the digest of
        the metrics up to here.

        Raises:
            InputError: This save or an earlier one failed.
        """
        known = loss is not None and math.isfinite(loss)
        metrics = {LOSS: loss if known else None} if self.best else None
        with writing(self.folder):
            self.manager.wait_until_finished()
            self.saving, self.rows, self.before = int(state.step), rows, self._best()
            self.manager.save(
                self.saving, args=ocp.args.StandardSave(_nested(state)), metrics=metrics, force=last
            )
            if last:
                self.manager.wait_until_finished()

    def _before_commit(self) -> None:
        """Add the digests, in Orbax's thread of the process that commits."""
        unfinished = self.folder.glob(f"{self.saving}.orbax-checkpoint-tmp*")
        for folder in (self.folder / str(self.saving), *unfinished):  # object stores have no temporary names
            if folder.exists():
                seal(folder, self.rows, self.before)

    def drop(self, step: int) -> int | None:
        """Delete the checkpoint after ``step`` steps, if there is one, and return the newest that stays."""
        self.manager.wait_until_finished()
        if self.manager.latest_step() == step:
            self.manager.delete(step)
        newest: int | None = self.manager.latest_step()
        return newest

    def _best(self) -> Loss | None:
        step = self.manager.best_step() if self.best else None
        return None if step is None else Loss(step=step, heldout_loss=self.manager.metrics(step)[LOSS])

    def best_step(self) -> int:
        """Return the number of steps of the best checkpoint."""
        return int(self.manager.best_step())

    def rows_of(self, step: int) -> str:
        """Return the ``rows`` that ``save`` was told after ``step`` steps."""
        return rows_digest(self.folder / str(step))

    def restore(self, like: TrainState, step: int | None = None) -> TrainState | None:
        """Restore a checkpoint onto the current mesh, whatever mesh and processes saved it.

        It is the one after ``step`` steps, or the newest, and must have the structure, shapes and dtypes of
        ``like``. None if there is no checkpoint.

        Raises:
            InputError: The checkpoint cannot be read, is of another model or of the old layout, or an array
                was restored onto another sharding.
        """
        found = self.manager.latest_step() if step is None else step
        if found is None:
            return None
        folder = self.folder / str(found)
        with _restoring(folder):
            if step is not None:  # the newest was checked when the folder was opened
                _check_whole(folder)
            _check_saved(like, self.manager.item_metadata(found), self.folder)
            saved = self.manager.restore(found, args=ocp.args.StandardRestore(_target(like)))
        state: TrainState = _like(like, saved, folder)
        return state


def _check_whole(folder: epath.Path) -> None:
    """Check a checkpoint on process 0, for all."""
    found = broken(folder) if is_first() else None
    if agreed([found is not None])[0]:
        raise InputError(
            f"{folder} is damaged ({found or 'see process 0'}); start again to go on from one before it"
        )


def _options(keep: int, every: int, best: bool) -> ocp.CheckpointManagerOptions:
    def loss(metrics: Mapping[str, float | None]) -> float:
        found = metrics[LOSS]
        return math.inf if found is None else found

    newest = LatestN(keep)
    if not best:
        return ocp.CheckpointManagerOptions(save_interval_steps=every, preservation_policy=newest)
    return ocp.CheckpointManagerOptions(
        save_interval_steps=every,
        preservation_policy=AnyPreservationPolicy([newest, BestN(get_metric_fn=loss, reverse=True, n=1)]),
        best_fn=loss,  # without it, Orbax stores no metrics
        best_mode="min",
    )


def save_weights(folder: epath.PathLike, weights: Any) -> None:
    """Save the trained weights alone."""
    folder = _absolute(folder)
    with writing(folder), ocp.StandardCheckpointer() as saver:
        saver.save(folder, _nested(weights), force=True)


def load_weights(folder: epath.PathLike, like: Any) -> Any:
    """Load weights saved by ``save_weights``, of the structure of ``like``, onto the current mesh.

    Raises:
        InputError: As ``Checkpoints.restore``.
    """
    folder = _absolute(folder)
    with ocp.StandardCheckpointer() as saver, _restoring(folder):
        _check_saved(like, saver.metadata(folder).item_metadata, folder)
        saved = saver.restore(folder, _target(like))
    return _like(like, saved, folder)


def _check_saved(like: Any, saved: Mapping[str, Any], folder: epath.PathLike) -> None:
    """Check that what was saved has the paths, shapes and dtypes of ``like``.

    Orbax would cast a dtype silently, and reports a shape by a page of its storage library's settings.
    """
    if saved and all(re.fullmatch(r"\d{4}", name) for name in saved):
        raise InputError(
            f"{folder} is of an older version, which numbered its arrays instead of naming them; "
            f"delete {epath.Path(folder).parent} to train again"
        )
    there, here = _by_path(saved), _by_path(like)
    missing, unknown = here.keys() - there.keys(), there.keys() - here.keys()
    for paths, what in ((missing, "is missing"), (unknown, "is unknown")):
        if paths:
            raise InputError(
                f"{folder}: {min(paths)} {what} ({len(there)} arrays are saved and this training has "
                f"{len(here)}): it is of another model or other adapters; delete it to train again"
            )
    for path, leaf in here.items():
        kinds = [f"{x.dtype}{list(x.shape)}" for x in (there[path], leaf)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{folder}: {path} is {kinds[0]} and should be {kinds[1]}: it is of another model; "
                "delete it to train again"
            )


def check_placed(like: Any, saved: Mapping[str, Any], folder: epath.PathLike) -> None:
    """Check that every restored array has the sharding that ``PARAMETERS`` gives it on the current mesh.

    Raises:
        InputError: One has another; it is named.
    """
    restored = _by_path(saved)
    for path, wanted in _by_path(_target(like)).items():
        if not restored[path].sharding.is_equivalent_to(wanted.sharding, len(wanted.shape)):
            raise InputError(
                f"{folder}: {path} was restored onto {restored[path].sharding} instead of "
                f"{wanted.sharding}; install the version of orbax-checkpoint in constraints.txt"
            )


def _like(like: Any, saved: Mapping[str, Any], folder: epath.Path) -> Any:
    check_placed(like, saved, folder)
    restored = _by_path(saved)
    return jax.tree.unflatten(jax.tree.structure(like), [restored[path] for path in _by_path(like)])


def _target(like: Any) -> dict[str, Any]:
    return _nested(jax.tree.map(ocp.utils.to_shape_dtype_struct, shapes_of_parameters(like)))


def _by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves by path ("weights/layers/attention/q_proj/lora/a"), in the order of the tree."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    inside_variable = path[-1:] == (jax.tree_util.GetAttrKey("value"),)  # how NNX ends the path of a Param
    return jax.tree_util.keystr(path[:-1] if inside_variable else path, simple=True, separator="/")


def _nested(tree: Any) -> dict[str, Any]:
    """Return the tree as nested dictionaries, which Orbax stores without knowing NNX or optax."""
    nested: dict[str, Any] = {}
    for path, leaf in _by_path(tree).items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def _absolute(folder: epath.PathLike) -> epath.Path:
    """Return the absolute path, which Orbax requires; ``resolve`` would damage that of an object store."""
    folder = epath.Path(folder)
    return folder if is_remote(folder) else folder.resolve()


@contextlib.contextmanager
def _restoring(folder: epath.Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # What TensorStore cannot read, Orbax raises as a plain Exception; a shortage of memory passes.
        if not isinstance(error, ValueError | KeyError | OSError) and type(error) is not Exception:
            raise
        reason = str(error).partition("\n")[0].partition(". See full")[0]
        raise InputError(f"{folder} cannot be restored ({reason}); delete it and start again") from None
