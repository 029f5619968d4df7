"""Standard streams that are closed, lack characters, or that nothing can be written to."""

import contextlib
import io
import os
import select
import sys
from typing import IO

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def prepare() -> None:
    """Open ``/dev/null`` for streams that are closed, as by ``>&-``, and have the others write any text.

    Python has None for the closed ones. What an encoding lacks becomes ``?``: λ, at the end of a run, was a
    traceback.
    """
    for name, mode in _MODES.items():
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def say(text: str) -> None:
    """Print a line on standard error, in one piece, if that can be: the exit status must not depend on it."""
    try:
        sys.stderr.write(f"{text}\n")  # several processes may write to one terminal at once
        sys.stderr.flush()
    except (OSError, ValueError):
        _discard(sys.stderr)


def settle() -> None:
    """Write what standard output still holds, or drop it: Python, at its exit, would fail with status 120."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard(sys.stdout)


def _discard(stream: IO[str]) -> None:
    """Let what is left of a stream go nowhere."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: no file is behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def stdout_has_reader() -> bool:
    """Return whether anyone reads standard output; if so, the pipe that broke is another one."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
