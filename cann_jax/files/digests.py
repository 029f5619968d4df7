"""Digests of a folder's files, kept in the folder: whether what is there is what was written."""

from collections.abc import Iterable
from typing import Any

from etils import epath

from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import files_below, fingerprints

DIGESTS = "digests.json"


def write_digests(folder: epath.Path, without: Iterable[str] = (), **more: Any) -> None:
    """Write the digest of every file below the folder but those named, and what else is to be kept."""
    names = set(files_below(folder)) - {DIGESTS, *without}
    write_json(folder / DIGESTS, {"files": fingerprints(folder, names), **more})


def damage(folder: epath.Path) -> str | None:
    """Return which file of those with a digest is not as it was written, and how; None where all are."""
    try:
        recorded = {str(name): digest for name, digest in read_json(folder / DIGESTS)["files"].items()}
    except InputError as error:
        return str(error).partition(";")[0]
    except (KeyError, TypeError, AttributeError):
        return f"{DIGESTS} is corrupt"
    for name in recorded:
        if not (folder / name).exists():
            return f"{name} is missing"
    present = fingerprints(folder, recorded)
    return next((f"{name} was altered" for name in recorded if recorded[name] != present[name]), None)
