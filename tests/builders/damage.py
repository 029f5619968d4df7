"""Files as a bad disk, a full one or a cut-off copy leaves them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGES = ("half", "empty", "flipped")


def changed(data: bytes, kind: str) -> bytes:
    """Return the content cut to half, nothing of it, or all with one bit flipped in the middle."""
    if kind == "flipped":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return data[: len(data) // 2] if kind == "half" else b""


@contextmanager
def damaged(path: Path, kind: str) -> Iterator[None]:
    """Damage a file, and put it back as it was, unless it was deleted, with its times."""
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(changed(data, kind))
    try:
        yield
    finally:
        if path.exists():
            path.write_bytes(data)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
