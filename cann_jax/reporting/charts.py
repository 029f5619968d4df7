"""A chart of a report, with a table that says the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

POINTS = 12  # rows of a chart's table, of a curve or a training with more


@dataclass(frozen=True)
class Chart:
    """A picture, what it shows in a line, and its numbers."""

    title: str
    svg: Markup
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def evenly(count: int) -> list[int]:
    """Return at most POINTS of so many places, evenly chosen."""
    return sorted({place * (count - 1) // max(POINTS - 1, 1) for place in range(POINTS)}) if count else []
