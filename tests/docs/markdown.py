"""Tables of the generated pages."""

from collections.abc import Iterable


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = tuple(heading)
    every = (heading, ("---",) * len(heading), *rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in every)


def code(name: str) -> str:
    return f"`{name}`"
