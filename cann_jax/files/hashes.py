"""Hashes of files and of values, by which a run knows whether its inputs are still the same."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from cann_jax.files.errors import InputError
from cann_jax.files.paths import PARTIAL


def fingerprint_file(path: epath.PathLike) -> str:
    """Return the SHA-256 of a file's content, or of the names and contents of all files in a folder."""
    path = epath.Path(path)
    if path.is_dir():
        return fingerprint_json({child.name: fingerprint_file(child) for child in path.iterdir()})
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    return digest.hexdigest()


def files_below(folder: epath.Path, prefix: str = "") -> list[str]:
    """Return the names of all files below the folder, relative to it, but for those not yet whole."""
    found = []
    for child in folder.iterdir():
        name = f"{prefix}{child.name}"
        if child.is_dir():
            found += files_below(child, f"{name}/")
        elif not name.endswith(PARTIAL):
            found.append(name)
    return found


def fingerprints(folder: epath.Path, names: Iterable[str]) -> dict[str, str]:
    """Return the fingerprints of files in a folder by name, several read at once."""
    names = sorted(names)
    with ThreadPoolExecutor() as threads:
        return dict(zip(names, threads.map(lambda name: fingerprint_file(folder / name), names), strict=True))


def fingerprint_json(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, whatever the order of its keys."""
    text = json.dumps(as_json(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def as_json(value: Any) -> Any:
    """Return the value as JSON reads it back: tuples as lists; dataclasses, paths and arrays by content.

    Numbers of float32 arrays are the shortest that float32 reads as the same.
    """
    return json.loads(json.dumps(value, default=_plain))


def shortest(value: Any) -> Any:
    """Return a number, or an array, as float32 in the fewest digits: 0.2, not 0.20000000298023224."""
    return np.asarray(value, np.float32).astype(str).astype(np.float64).tolist()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "dtype", None) == np.float32:
        return shortest(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
