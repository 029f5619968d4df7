"""The console that tables are printed on: as wide as the terminal, or of a fixed width in a log."""

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # as Unicode calls them
LOG_WIDTH = 110  # where standard output is no terminal


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a line, cell, heading or title, which may hold names from data."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Leave the exit status to the command; rich would exit with 1."""
        raise  # rich calls this where it has caught a BrokenPipeError


def console(stream: TextIO | None = None) -> Console:
    """Return a console that writes texts, printable but as they are, to ``stream`` or to standard output.

    With rich's markup a score called "[v2]safe" would be printed as "safe", and "a[/b]" was a traceback.
    """
    stream = stream or sys.stdout
    width = None if stream.isatty() else LOG_WIDTH
    return _Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]] = (), title: str | None = None) -> Table:
    """Return a table for the console, of which the first column holds names and the others numbers."""
    found = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        found.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows:
        found.add_row(*row)
    return found


def printable(text: str) -> str:
    """Return a text with ``�`` for characters by which whoever wrote it could steer the terminal.

    These are control characters, and those that turn round the order in which what follows is shown.
    """
    lines = text.replace("\r\n", "\n").expandtabs(4)
    return "".join("�" if _steers(c) and c != "\n" else c for c in lines)


def _steers(character: str) -> bool:
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in TURNING


def one_line(text: str, length: int | None = None) -> str:
    """Return a text, or its first ``length`` characters, printable and with single spaces."""
    return printable(" ".join(text.split())[:length])
