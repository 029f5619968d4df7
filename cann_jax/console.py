"""Tables for people: as wide as the terminal, and wide enough to be whole in a log."""

import sys

from rich.console import Console

LOG_WIDTH = 110  # where standard output is no terminal


def console() -> Console:
    """Standard output."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
