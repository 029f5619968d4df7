"""Tables for people: as wide as the terminal, and wide enough to be whole in a log."""

import sys
from typing import TextIO

from rich.console import Console

LOG_WIDTH = 110  # where standard output is no terminal


def console(stream: TextIO | None = None) -> Console:
    """Writes to ``stream``, or to standard output."""
    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)
