"""Set the tables of docs/reference/api.md; ``python -m tests.docs.api_page`` rewrites them.

Only the site renders docstrings.
"""

import inspect
import pkgutil
from pathlib import Path

from tests.docs.markdown import code, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
COMMAND = "python -m tests.docs.api_page"
MARK = "::: "


def api_page(text: str) -> str:
    """Return the page with a table at the head of each section, of the names whose docstrings it has."""
    introduction, *sections = text.split("\n## ")
    return "\n## ".join([introduction, *map(_section, sections)])


def _section(text: str) -> str:
    title, *blocks = text.rstrip().split("\n\n")
    names = [block.removeprefix(MARK) for block in blocks if block.startswith(MARK)]
    kept = [block for block in blocks if not block.startswith("| ")]
    first = next(place for place, block in enumerate(kept) if block.startswith(MARK))
    rows = table(("name", "what it is, or does"), ((code(_last(name)), _summary(name)) for name in names))
    return "\n\n".join([title, *kept[:first], rows, *kept[first:]]) + "\n"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _summary(name: str) -> str:
    """Return the first line of the docstring of what has this full name."""
    line = (inspect.getdoc(pkgutil.resolve_name(name)) or "").partition("\n")[0]
    return line.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(api_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
