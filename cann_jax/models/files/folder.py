"""Hugging Face folders: which files hold the weights, and a reader for every tensor in them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

from cann_jax.files.errors import InputError, cut
from cann_jax.models.files.folder_files import inside, read_json, reading
from cann_jax.models.files.pickled import pickled_tensors

# Stem, suffix and pattern of weights' names in the order in which transformers looks for them; a folder of
# pickles may hold others that are not weights (optimizer.bin, training_args.bin).
LAYOUTS = (("model", ".safetensors", "*.safetensors"), ("pytorch_model", ".bin", "pytorch_model*.bin"))
Index = tuple[slice, ...]  # of the leading dimensions; () is everything


class Reader(NamedTuple):
    """A tensor in a file; calling it reads it, or the part of it at an index."""

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    def __call__(self, index: Index = ()) -> np.ndarray:
        """Return the tensor at ``index``."""
        return self.read(index)


Readers = dict[str, Reader]


def folder_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold weights, by its index where it has one; safetensors come first.

    Raises:
        InputError: No file holds weights, one that the index names is missing, or the index omits one that
            transformers would read instead.
    """
    for stem, suffix, pattern in LAYOUTS:
        index, single = folder / f"{stem}{suffix}.index.json", folder / f"{stem}{suffix}"
        if index.exists():
            return _indexed_files(index, single)
        files = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if files:
            return files
    raise InputError(f"{folder}: model.safetensors is missing; copy the whole folder")


def _indexed_files(index: Path, single: Path) -> list[Path]:
    folder, names = index.parent, _indexed_names(index)
    if single.exists() and single.name not in names:
        raise InputError(f"{folder} holds {single.name} and an index of other files; remove the stale one")
    paths = [inside(folder, name) for name in names]
    missing = [path.name for path in paths if not path.exists()]
    if missing or not names:
        raise InputError(
            f"{folder}: {', '.join(map(cut, missing[:4])) or single.name} is missing; copy the whole folder"
        )
    return paths


def _indexed_names(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} has no weight_map of file names; copy it again")
    return sorted(set(places.values()))


def folder_readers(files: list[Path]) -> Readers:
    """Return a reader for every tensor of ``files``, safetensors or pickles.

    Raises:
        InputError: A file is corrupt, two files hold the same tensor, or a pickle holds anything but tensors.
    """
    readers: Readers = {}
    for path in files:
        found = _pickled(path) if path.suffix == ".bin" else _safetensors(path)
        for name in sorted(found.keys() & readers):
            raise InputError(
                f"{path}: {cut(name)} is in another file of the folder too; remove the stale file"
            )
        readers |= found
    return readers


def _pickled(path: Path) -> Readers:
    return {name: Reader(tensor.shape, tensor.read) for name, tensor in pickled_tensors(path).items()}


def _safetensors(path: Path) -> Readers:
    with reading(path, "is truncated or corrupt", "copy it again"), safe_open(path, framework="flax") as file:
        return {
            name: Reader(tuple(file.get_slice(name).get_shape()), partial(_read_tensor, path, name))
            for name in file.keys()  # noqa: SIM118
        }


def _read_tensor(path: Path, name: str, index: Index) -> np.ndarray:
    # framework "flax" because numpy's own reader does not know bfloat16.
    with (
        reading(path, f"cannot be read at {cut(name)}", "copy it again"),
        safe_open(path, framework="flax") as file,
    ):
        return np.asarray(file.get_slice(name)[index] if index else file.get_tensor(name))
