"""The console that tables are printed on: as wide as the terminal, or of a fixed width in a log."""

import sys
from typing import TextIO

from rich.console import Console

LOG_WIDTH = 110  # where standard output is no terminal


def console(stream: TextIO | None = None) -> Console:
    """Return a console that writes to ``stream``, or to standard output."""
    stream = stream or sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)
