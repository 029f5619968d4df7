"""``torch.save`` files without torch: a pickle that can build tensors and nothing else.

The format: a ZIP archive, not compressed, with a pickle in ``*/data.pkl`` and each storage's bytes in
``*/data/KEY``. ``pickle_steps`` carries out the pickle.
"""

import io
import math
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cann_jax.files.errors import InputError, cut, shown
from cann_jax.models.files.pickle_steps import built

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
# Bytes of the pickle, and of the archive's directory: 150 and 100 for a tensor, and Llama 3.1 405B has 1,138.
# Of a byte of the pickle this program can make 130.
LONGEST = 1 << 19
DIMENSIONS = 8  # of a tensor; a decoder's have two
MOST = 1 << 48  # of a tensor's sizes and strides: their bytes are counted in 64 bits


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
        with _Sparing(path) as file, zipfile.ZipFile(file) as archive:
            return _checked(path, _load(path, file, archive))
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is truncated, corrupt or older than torch 1.6; copy it again, or save it as safetensors"
        ) from None
    # A corrupt or hostile pickle may raise anything; the message says what it was.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{path} does not hold plain tensors ({reason}); copy it again, or save it as safetensors"
        ) from None


class _Sparing(io.FileIO):
    """A file of which at most ``LONGEST`` bytes are read at once, whatever an archive's directory says."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or what is left of the file."""
        most = LONGEST + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        if len(data) > LONGEST:
            raise ValueError(f"its directory or pickle has more than {LONGEST >> 10} KB")
        return data


class _Storage(NamedTuple):
    path: Path
    start: int
    items: int
    dtype: np.dtype


def _load(path: Path, file: io.FileIO, archive: zipfile.ZipFile) -> Any:
    entries = {name.partition("/")[2]: entry for name, entry in archive.NameToInfo.items()}
    if "data.pkl" not in entries:
        raise InputError(f"{path} is a ZIP archive without data.pkl, so not torch.save's; use another file")
    places = {name: _place(path, file, entry) for name, entry in entries.items()}

    def content(name: str) -> bytes:
        start, size = places[name]
        file.seek(start)
        return file.read(size)

    if "byteorder" in entries and content("byteorder") != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it as safetensors there")
    return built(content("data.pkl"), partial(_named, path), partial(_storage, path, places))


def _place(path: Path, file: io.FileIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the byte at which an entry's content begins, and its size."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(f"{path} is compressed; unpack and save it again with torch.save")
    file.seek(entry.header_offset)
    name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
    start = entry.header_offset + LOCAL_HEADER + name + extra
    if start + entry.file_size > file.seek(0, io.SEEK_END):
        raise ValueError(f"{shown(entry.filename)} goes beyond the end of the file")
    return start, entry.file_size


def _checked(path: Path, value: Any) -> dict[str, PickledTensor]:
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds a {type(value).__name__} instead of named tensors; save the state dictionary"
        )
    for name, tensor in value.items():
        if not isinstance(tensor, PickledTensor):
            raise InputError(
                f"{path}: {shown(name)} is a {type(tensor).__name__}, not a tensor; save only the "
                "state dictionary"
            )
    return value


def _named(path: Path, module: str, name: str) -> Any:
    """Return what a name stands for; raise InputError for any that is not part of a tensor."""
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _tensor
    if (module, name) == ("collections", "OrderedDict"):
        return _mapping
    raise InputError(
        f"{path} names {cut(f'{module}.{name}')}, which is not part of a tensor, and was not run; "
        "do not trust the file, or save its tensors as safetensors"
    )


def _mapping() -> dict[str, Any]:
    return {}


def _storage(path: Path, places: dict[str, tuple[int, int]], reference: Any) -> _Storage:
    """Return the storage that a reference names, checked against its entry's size."""
    kind, dtype, key, _, items = reference
    if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
        raise ValueError(f"unknown reference {shown(kind)}")
    start, size = places[f"data/{key}"]
    if type(items) is not int or not 0 <= items * dtype.itemsize <= size:
        raise ValueError(f"storage {shown(key)} has {size} bytes, too few for {shown(items)} numbers")
    return _Storage(path, start, items, dtype)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> PickledTensor:
    """Return a tensor, checked against its storage: a stride beyond it would read foreign memory."""
    if not isinstance(storage, _Storage) or not all(
        isinstance(sizes, tuple)
        and len(sizes) <= DIMENSIONS
        and all(type(n) is int and 0 <= n < MOST for n in sizes)
        for sizes in ((offset,), shape, strides)
    ):
        raise ValueError("a tensor of an unknown kind")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.items:
        raise ValueError(f"a tensor of shape {shown(shape)} exceeds its storage's {storage.items} numbers")
    # With strides of 0 one number is as many as the shape says: 246 MB of a file of 340 bytes.
    if math.prod(shape) > storage.items:
        raise ValueError(
            f"an expanded view, of shape {shown(shape)} over {storage.items} numbers, which no model's state "
            "dictionary holds"
        )
    place = (storage.path, storage.start, storage.items, storage.dtype)
    return PickledTensor(*place, offset, shape, strides)
