"""Paths that people name, on this machine or in an object store."""

import contextlib
import os
from collections.abc import Iterator

from cann_jax.files.errors import InputError

SHOWN = 300  # characters of a path in a message
PARTIAL = ".partial"  # ends the name of a local file until it is whole


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return whether the path lies in an object store."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def reached(path: str | os.PathLike[str], key: str) -> Iterator[None]:
    """Turn what a file system or a bucket's client raises at the first touch of a path into one line.

    Clients share no base: gcsfs that is missing is an ImportError, an unknown "http://" a KeyError.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        local = not is_remote(path)
        if local and not isinstance(error, OSError):
            raise
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        hint = "" if local else ", and that its client is installed (pip install gcsfs)"
        raise InputError(
            f"{key}: {os.fspath(path)[:SHOWN]} cannot be used ({' '.join(reason.split())}); check its name, "
            f"that this machine may use it{hint}"
        ) from None
