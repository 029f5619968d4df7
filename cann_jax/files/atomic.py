"""Atomic writing of files, and reading with one-line errors, on local disks and in object stores.

Local files are written under a temporary name and moved into place, so that a killed process never leaves
half a file under the final name; what it leaves, the next writer of a run's folder removes. Object stores
(gs://) cannot rename, but there each write is atomic.
"""

import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from cann_jax.files.errors import InputError, ResourceError
from cann_jax.files.hashes import as_json, fingerprint_file
from cann_jax.files.paths import PARTIAL, is_remote

DIGEST = ".sha256"  # the file beside another that has its digest
# Whether this process of a run writes a file; set by ``cann_jax.runtime.distributed``.
writes_here: ContextVar[bool] = ContextVar("writes_here", default=True)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# What safetensors, tokenizers and Orbax's storage say of a write that failed, in errors of their own.
_FAILED = {os.strerror(number): number for number in (*_NO_SPACE, errno.EROFS, errno.EACCES, errno.EIO)}


def write_bytes_atomic(path: epath.PathLike, data: bytes, *, digest: bool = False) -> None:
    """Write a file atomically, if this process writes files: readers see the old content or the new.

    With ``digest``, ``is_whole`` tells it from one that was altered or cut off.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written; no partial file is left.
    """
    path = epath.Path(path)
    if not writes_here.get():
        return
    if digest:  # first: a process that is killed in between leaves no file without its digest
        write_bytes_atomic(f"{path}{DIGEST}", hashlib.sha256(data).hexdigest().encode())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):
            path.write_bytes(bytes(data))  # an Arrow buffer is not bytes
        else:
            _write_and_move(os.fspath(path), data)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write JSON as ``write_bytes_atomic`` does; dataclasses, paths, NumPy and JAX arrays are converted.

    Raises:
        ValueError: The value has a NaN or an infinity, which JSON cannot represent.
    """
    text = json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode())


def read_json(path: epath.PathLike) -> Any:
    """Read JSON; raise InputError if the file is missing or corrupt."""
    with _reading(path):
        return json.loads(epath.Path(path).read_bytes())


def is_whole(path: epath.PathLike) -> bool:
    """Return whether a file is as ``write_bytes_atomic`` wrote it with its digest; say so where it is not."""
    path, recorded = epath.Path(path), epath.Path(f"{path}{DIGEST}")
    if not path.exists():
        return False
    whole: bool = recorded.exists() and recorded.read_bytes() == fingerprint_file(path).encode()
    if not whole:
        print(f"{path} or its {DIGEST} was altered or cut off; it is made again", flush=True)
    return whole


def write_table(path: epath.PathLike, table: pa.Table, *, digest: bool = False) -> None:
    """Write a Parquet file as ``write_bytes_atomic`` does."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes_atomic(path, sink.getvalue(), digest=digest)


def read_table(path: epath.PathLike) -> pa.Table:
    """Read a Parquet file; raise InputError if it is missing or corrupt."""
    with _reading(path):
        return pq.read_table(pa.BufferReader(epath.Path(path).read_bytes()))


def write_array(path: epath.PathLike, array: np.ndarray, *, digest: bool = False) -> None:
    """Write a ``.npy`` file as ``write_bytes_atomic`` does."""
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    write_bytes_atomic(path, sink.getvalue(), digest=digest)


def read_array(path: epath.PathLike) -> np.ndarray:
    """Read what ``write_array`` wrote, read-only; of a local file, only what is looked at.

    Raises:
        InputError: The file is missing or corrupt.
    """
    with _reading(path), epath.Path(path).open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        # Unlike ``np.load``, this allocates nothing by the header's numbers, and refuses objects.
        if is_remote(path):
            return np.frombuffer(file.read(), dtype).reshape(shape)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype, offset=file.tell()).reshape(shape)


@contextlib.contextmanager
def staged(path: epath.PathLike) -> Iterator[Path]:
    """Yield a local path for libraries that can write local files only.

    It is ``path`` itself, or, for one in an object store, a temporary file or folder that is copied there at
    the end. A local file gets the permissions that a new file has: safetensors leaves its own to the owner.
    """
    path = epath.Path(path)
    if not is_remote(path):
        yield Path(path)
        if path.is_file():
            os.chmod(path, 0o666 & ~_umask())
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        yield local
        for file in [local] if local.is_file() else sorted(local.rglob("*")):
            target = path / file.relative_to(local) if local.is_dir() else path
            with file.open("rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _umask() -> int:
    mask = os.umask(0o077)  # can only be asked for by setting it
    os.umask(mask)
    return mask


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Turn the failure of any write inside into a ResourceError: the disk is full, or read-only."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        failed = _as_os_error(error)
        if failed is None:
            raise
        if failed.errno in _NO_SPACE:
            raise ResourceError(
                f"disk full while writing {path}; free space and start again; what is finished is kept"
            ) from error
        raise ResourceError(
            f"cannot write {path} ({failed.strerror or failed}); make its folder writable, or choose another "
            "folder (run_dir, or --out of the dual command)"
        ) from error


def _as_os_error(error: Exception) -> OSError | None:
    """Return the system's error that another stands for; None if it is something else."""
    if isinstance(error, OSError):
        return error
    reason = next((reason for reason in _FAILED if reason in str(error)), None)
    return None if reason is None else OSError(_FAILED[reason], reason)


@contextlib.contextmanager
def _reading(path: epath.PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing; start the run again to create it") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read; allow it (chmod u+r) and start again") from None
    except (ValueError, RecursionError, OverflowError, MemoryError, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is corrupt ({reason}); delete it and start again") from None


def remove_partials(folder: epath.PathLike) -> None:
    """Remove what killed writers left below a folder, and what is being written, which is begun again."""
    if is_remote(folder):
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(PARTIAL):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(parent, name))


def _write_and_move(path: str, data: bytes) -> None:
    for again in (True, True, False):
        try:
            return _try_to_write(path, data)
        except FileNotFoundError:  # perhaps a start that clears the folder took it for a killed writer's
            if not again:
                raise


def _try_to_write(path: str, data: bytes) -> None:
    partial = _partial_of(path)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # some file systems report a full disk only here
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def _partial_of(path: str) -> str:
    """Return a temporary name that no other process has: two may write one file, such as a run's report."""
    return f"{path}.{uuid.uuid4().hex[:12]}{PARTIAL}"
