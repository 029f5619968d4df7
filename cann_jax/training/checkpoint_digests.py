"""Digests of a checkpoint's files: whether a training that goes on may trust it.

Orbax notices what it cannot parse; a flipped byte of a small array it restores as another number.
"""

from etils import epath

from cann_jax.files.atomic import read_json
from cann_jax.files.digests import DIGESTS, damage, write_digests
from cann_jax.files.errors import InputError
from cann_jax.files.paths import is_remote

# Orbax writes these last, as the commit; the first with its time.
METADATA, COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"


def seal(checkpoint: epath.Path, rows: str) -> None:
    """Write the digests of a checkpoint that is about to be committed, and that of the metrics up to it."""
    write_digests(checkpoint, (METADATA,), rows=rows)


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


def drop_damaged(folder: epath.Path, *, best: bool) -> None:
    """Delete damaged checkpoints newer than the one to go on from, and say which they were.

    With ``best``, any of them may be the one that is kept in the end: all from a damaged one on are deleted,
    and the training makes them again.

    Raises:
        InputError: None is left to go on from; nothing is deleted.
    """
    steps = sorted((int(child.name) for child in folder.iterdir() if _is_committed(child)), reverse=True)
    damaged: dict[int, str] = {}
    for step in steps:
        if found := broken(folder / str(step)):
            damaged[step] = found
        elif not best:
            break
    if not damaged:
        return
    said = "; ".join(f"that after step {step}: {found}" for step, found in damaged.items())
    whole = (
        [step for step in steps if step < min(damaged)]
        if best
        else [step for step in steps if step not in damaged]
    )
    if not whole:
        raise InputError(
            f"{folder}: no checkpoint is left to go on from, because of damaged ones ({said}); delete the "
            "folder to train from the start"
        )
    print(f"{folder}: damaged checkpoint deleted ({said}); going on after step {whole[0]}", flush=True)
    for step in steps:
        if step > whole[0]:
            (folder / str(step)).rmtree()


def _is_committed(path: epath.Path) -> bool:
    """Return whether a path is a checkpoint; in object stores, unfinished ones have final names too."""
    return path.name.isdecimal() and (not is_remote(path) or (path / COMMITTED).exists())
