"""``torch.save`` files without torch: a pickle that can build tensors and nothing else.

A pickle is a program; the ordinary unpickler runs whatever it names. Here every name but those of a tensor,
its storage and an ordered mapping is an error before it is called. Those names resolve to named tuples,
because the pickle's BUILD opcode sets attributes even of a frozen dataclass. The format: a ZIP archive, not
compressed, with the pickle in ``*/data.pkl`` and each storage's bytes in ``*/data/KEY``.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cann_jax.files.errors import InputError, shown

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
    """A strided view of a storage in a file."""

    path: Path
    start: int  # byte at which the storage begins
    items: int  # numbers in the storage
    dtype: np.dtype
    offset: int  # index of the view's first number
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # of each dimension, in numbers

    def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a copy of the numbers at ``index``; the file is mapped, so nothing else of it is read."""
        if not self.items:
            return np.empty(self.shape, self.dtype)[index]
        storage = np.memmap(self.path, self.dtype, "r", self.start, (self.items,))
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        as_strided = np.lib.stride_tricks.as_strided
        return np.array(as_strided(storage[self.offset :], self.shape, strides, writeable=False)[index])


def pickled_tensors(path: Path) -> dict[str, PickledTensor]:
    """Return every tensor of a ``torch.save`` file, one mapping of names to tensors, without reading it.

    Raises:
        InputError: The file is truncated or older than torch 1.6, or its pickle names anything that is not
            part of a tensor.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked(path, _load(path, archive))
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is truncated, corrupt or older than torch 1.6; copy it again, or save it as safetensors"
        ) from None
    # A corrupt or hostile pickle may raise anything; the message says what it was.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} does not hold plain tensors ({reason}); copy it again, or save it as safetensors"
        ) from None


def _load(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {name.partition("/")[2]: entry for name, entry in archive.NameToInfo.items()}
    if "data.pkl" not in entries:
        raise InputError(f"{path} is a ZIP archive without data.pkl, so not torch.save's; use another file")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it as safetensors there")
    storages = {name: entry for name, entry in entries.items() if name.startswith("data/")}
    starts = {name.removeprefix("data/"): _start(path, entry) for name, entry in storages.items()}
    _start(path, entries["data.pkl"])  # not compressed, so no larger than the file
    data = archive.read(entries["data.pkl"])
    for opcode, argument, _ in pickletools.genops(data):
        # The unpickler's list of memos is as long as the largest index says: 16 GB for 2³⁰.
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"memo {argument} of a pickle of {len(data)} bytes")
    return _TensorUnpickler(path, starts, io.BytesIO(data)).load()


def _start(path: Path, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the byte at which an entry's content begins, and its size."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path} is compressed; unpack and save it again with torch.save")
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
    return entry.header_offset + LOCAL_HEADER + name + extra, entry.file_size


def _checked(path: Path, value: Any) -> dict[str, PickledTensor]:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path} holds a {type(value).__name__} instead of named tensors; save the state dictionary"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, PickledTensor):
            raise InputError(
                f"{path}: {shown(name)} is a {type(tensor).__name__}, not a tensor; save only the "
                "state dictionary"
            )
    return dict(value)


class _StorageType(NamedTuple):
    """What ``torch.FloatStorage`` and its like resolve to."""

    dtype: np.dtype


class _Storage(NamedTuple):
    path: Path
    start: int
    items: int
    dtype: np.dtype


class _Callable(NamedTuple):
    """A function in a wrapper: the pickle could give a bare one other defaults."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that knows ten storages, one way to build a tensor, and the ordered mapping."""

    def __init__(self, path: Path, starts: dict[str, tuple[int, int]], file: io.BytesIO) -> None:
        super().__init__(file)
        self._path, self._starts = path, starts

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for; raise InputError for any that is not part of a tensor."""
        if module == "torch" and name in DTYPES:
            return _StorageType(DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Callable(_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return _Callable(lambda: collections.OrderedDict())
        raise InputError(
            f"{self._path} names {module}.{name}, which is not part of a tensor, and was not run; "
            "do not trust the file, or save its tensors as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a reference names, checked against its entry's size."""
        kind, storage, key, _, items = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise ValueError(f"unknown reference {shown(kind)}")
        start, size = self._starts[key]
        if not 0 <= items * storage.dtype.itemsize <= size:
            raise ValueError(f"storage {key} has {size} bytes, too few for {items} numbers")
        return _Storage(self._path, start, items, storage.dtype)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> PickledTensor:
    """Return a tensor, checked against its storage's end: a stride beyond it would read foreign memory."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a tensor of an unknown kind")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.items:
        raise ValueError(f"a tensor of shape {tuple(shape)} exceeds its storage's {storage.items} numbers")
    place = (storage.path, storage.start, storage.items, storage.dtype)
    return PickledTensor(*place, offset, tuple(shape), tuple(strides))
