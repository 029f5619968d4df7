"""Digests of a checkpoint's files: whether a training that goes on may trust it.

Orbax notices what it cannot parse; a flipped byte of a small array it restores as another number.
"""

from typing import TypedDict

from etils import epath

from cann_jax.files.atomic import read_json
from cann_jax.files.digests import DIGESTS, damage, write_digests
from cann_jax.files.errors import InputError
from cann_jax.files.paths import is_remote

CHECKPOINTS = "checkpoints"  # the folder of them, below a training's
# Orbax writes these last, as the commit; the first with its time.
METADATA, COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"


class Loss(TypedDict):
    """The loss of a checkpoint; None where it is not known."""

    step: int
    heldout_loss: float | None


def seal(checkpoint: epath.Path, rows: str, best: Loss | None) -> None:
    """Write the digests of a checkpoint that is about to be committed.

    ``rows`` is that of the metrics up to it, ``best`` the best checkpoint before it, where one is kept.
    """
    write_digests(checkpoint, (METADATA,), rows=rows, best=best)


def rows_digest(checkpoint: epath.Path) -> str:
    """Return the digest of the metrics up to a checkpoint that is whole."""
    return str(read_json(checkpoint / DIGESTS)["rows"])


def broken(checkpoint: epath.Path) -> str | None:
    """Return which file of a checkpoint is not as it was written, and how; None where all are."""
    if not (checkpoint / DIGESTS).exists():
        return f"{DIGESTS} is missing, as in those of older versions"
    try:
        read_json(checkpoint / METADATA)
    except InputError as error:
        return str(error).partition(";")[0]
    return damage(checkpoint)


def saved_steps(folder: epath.Path) -> list[int]:
    """Return after which steps there is a checkpoint, whole or damaged, the last one first."""
    found = folder.iterdir() if folder.exists() else ()
    return sorted((int(child.name) for child in found if _is_committed(child)), reverse=True)


def drop_damaged(folder: epath.Path) -> None:
    """Delete damaged checkpoints and what follows the one to go on from, and say so.

    It is the newest that is whole and whose best predecessor is. A best one that is lost is thus made again.

    Raises:
        InputError: None is left to go on from; nothing is deleted.
    """
    steps = saved_steps(folder)
    found = {step: broken(folder / str(step)) for step in steps}
    whole = [step for step in steps if found[step] is None]
    chosen = next((step for step in whole if _needed(folder / str(step)) in (None, *whole)), None)
    if whole == steps and chosen == max(steps, default=None):
        return
    said = "; ".join(f"that after step {step}: {what}" for step, what in found.items() if what)
    said = said or "the best one is missing"
    if chosen is None:
        raise InputError(
            f"{folder}: no checkpoint is left to go on from, because of damaged ones ({said}); delete the "
            "folder to train from the start"
        )
    print(f"{folder}: damaged checkpoint deleted ({said}); going on after step {chosen}", flush=True)
    for step in steps:
        if step > chosen or step not in whole:
            (folder / str(step)).rmtree()


def _needed(checkpoint: epath.Path) -> int | None:
    """Return the steps of the best checkpoint before this one; None where there is none, or this is better.

    Orbax deletes a best one after it was surpassed, and may have been killed in the middle of that.
    """
    best: Loss | None = read_json(checkpoint / DIGESTS)["best"]
    if best is None:
        return None
    own, known = (value["heldout_loss"] for value in (read_json(checkpoint / "metrics/metrics"), best))
    surpassed = known is None or (own is not None and own <= known)
    return None if surpassed else int(best["step"])


def _is_committed(path: epath.Path) -> bool:
    """Return whether a path is a checkpoint; in object stores, unfinished ones have final names too."""
    return path.name.isdecimal() and (not is_remote(path) or (path / COMMITTED).exists())
