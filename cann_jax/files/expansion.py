"""How much a compressed file may become: a megabyte of gzip, Parquet or npz stands for any number of them."""

import gzip
import io

from cann_jax.files.errors import InputError

ROOM = 64 << 20  # bytes that any file may become,
TIMES = 100  # and how many times its size a larger one; tables of labels in Parquet reach 60


def check_expansion(path: str, size: int, becomes: int) -> None:
    """Check that a file of ``size`` bytes does not become far more.

    Raises:
        InputError: It does.
    """
    if becomes > max(ROOM, TIMES * size):
        raise InputError(
            f"{path}: its {size} bytes become {becomes >> 20} MB or more, over {TIMES} times as many; "
            "write it without compression"
        )


def gunzip(path: str, data: bytes) -> bytes:
    """Return what gzip packed, as far as ``check_expansion`` lets it be unpacked."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(max(ROOM, TIMES * len(data)) + 1)
    check_expansion(path, len(data), len(found))
    return found
