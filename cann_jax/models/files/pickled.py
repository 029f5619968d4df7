"""``torch.save`` files without torch: a pickle that can build tensors and nothing else.

A pickle is a program; the ordinary unpickler runs whatever it names. Here every name but those of a tensor,
its storage and an ordered mapping is an error before anything of it is called. What those names stand for are
named tuples, because the pickle's BUILD opcode sets attributes past every ``frozen`` of a dataclass. The
format: a ZIP archive, not compressed, with the pickle in ``*/data.pkl`` and each storage's bytes in
``*/data/KEY``.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cann_jax.files.errors import InputError

DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
LOCAL_HEADER = 30  # bytes before the name in a ZIP entry; the lengths of name and extra field end it


class PickledTensor(NamedTuple):
    """A strided view of a storage that still lies in the file.

    Args:
        path: The file.
        start: Byte at which the storage begins.
        items: Numbers in the storage.
        dtype: Of a number.
        offset: First number of the view.
        shape: Of the view.
        strides: In numbers, one a dimension.
    """

    path: Path
    start: int
    items: int
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The numbers at ``index``, copied; the file is mapped, so nothing else of it is read."""
        if not self.items:
            return np.empty(self.shape, self.dtype)[index]
        storage = np.memmap(self.path, self.dtype, "r", self.start, (self.items,))
        apart = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, apart, writeable=False)
        return np.array(view[index])


def pickled_tensors(path: Path) -> dict[str, PickledTensor]:
    """Every tensor of a ``torch.save`` file by name; none is read yet.

    Args:
        path: A file that holds one mapping of names to tensors.

    Raises:
        InputError: the file is truncated, in the format before torch 1.6, or its pickle names anything
            that is no part of a tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked(path, _load(path, archive))
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is truncated, corrupt or of a torch before 1.6; copy it again, or save it as safetensors"
        ) from None
    # What a corrupt or hostile pickle raises is not to be foreseen; the message says what it was.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} holds no plain tensors ({reason}); copy it again, or save it as safetensors"
        ) from None


def _load(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {name.partition("/")[2]: entry for name, entry in archive.NameToInfo.items()}
    if "data.pkl" not in entries:
        raise InputError(f"{path} is a ZIP archive without data.pkl, so not of torch.save; use another file")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it as safetensors there")
    starts = {
        name.removeprefix("data/"): _start(path, entry)
        for name, entry in entries.items()
        if name.startswith("data/")
    }
    return _TensorUnpickler(path, starts, io.BytesIO(archive.read(entries["data.pkl"]))).load()


def _start(path: Path, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """(Byte at which an entry's content begins, its size)."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path} is compressed; unpack and save it again with torch.save")
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
    return entry.header_offset + LOCAL_HEADER + name + extra, entry.file_size


def _checked(path: Path, value: Any) -> dict[str, PickledTensor]:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path} holds a {type(value).__name__} in place of named tensors; save the state dictionary"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, PickledTensor):
            raise InputError(
                f"{path}: {name!r} is a {type(tensor).__name__}, no tensor; save the state dictionary alone"
            )
    return dict(value)


class _StorageType(NamedTuple):
    """Stands for ``torch.FloatStorage`` and its like."""

    dtype: np.dtype


class _Storage(NamedTuple):
    path: Path
    start: int
    items: int
    dtype: np.dtype


class _Callable(NamedTuple):
    """A function as the pickle may hold it: a bare one could be given other defaults."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _TensorUnpickler(pickle.Unpickler):
    """Knows ten storages, one way to build a tensor, and the ordered mapping."""

    def __init__(self, path: Path, starts: dict[str, tuple[int, int]], file: io.BytesIO):
        super().__init__(file)
        self._path, self._starts = path, starts

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return _StorageType(DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Callable(_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return _Callable(_ordered)
        raise InputError(
            f"{self._path} names {module}.{name}, which is no part of a tensor, and was not run; "
            "do not trust the file, or save its tensors as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, items = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise ValueError(f"unknown reference {kind!r}")
        start, size = self._starts[key]
        if not 0 <= items * storage.dtype.itemsize <= size:
            raise ValueError(f"storage {key} has {size} bytes, {items} numbers do not fit")
        return _Storage(self._path, start, items, storage.dtype)


def _ordered() -> collections.OrderedDict:
    return collections.OrderedDict()


def _tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> PickledTensor:
    """Checked against the storage's end: a stride beyond it would read what is not the file's."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a tensor of no known kind")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.items:
        raise ValueError(f"a tensor of shape {tuple(shape)} runs over its storage's {storage.items} numbers")
    place = (storage.path, storage.start, storage.items, storage.dtype)
    return PickledTensor(*place, offset, tuple(shape), tuple(strides))
