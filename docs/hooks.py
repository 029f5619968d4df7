"""MkDocs hooks: what the pages of docs/ link to elsewhere in the project becomes a part of the site.

On a code host a relative link leads from docs/ to any file. Here such a file becomes a page (Markdown as
it is, code in a block) or is copied (pictures), and the links are rewritten to where it lies. ``links``,
``slug`` and ``source`` serve the tests too, which need no MkDocs.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")
LEXERS = {".py": "python", ".yaml": "yaml", ".jsonl": "json", ".json": "json", ".sh": "sh"}


class Link(NamedTuple):
    """A relative link: the file that it leads to, and its ``#anchor`` or nothing."""

    target: Path
    anchor: str


def links(page: Path, text: str) -> Iterator[Link]:
    """Yield the relative links of a page."""
    for found in LINK.finditer(text):
        if (link := _link(page, found)) is not None:
            yield link


def slug(heading: str, separator: str = "-") -> str:
    """Return the anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", separator)


def source(page: Path) -> str:
    """Return where a file lies among the site's sources, of which docs/ is the root; code becomes a page."""
    inside = page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()
    return f"{inside}.md" if page.suffix in LEXERS else inside


def on_config(config: Any) -> None:
    """Give headings the anchors that they have on a code host."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug


def on_files(files: Any, config: Any) -> Any:
    """Add the measurements, and whatever else the pages link to outside of docs/."""
    from mkdocs.structure.files import File, InclusionLevel  # absent where only tests run

    seen = {DOCS / file.src_uri for file in files}
    pages = [Path(file.abs_src_path) for file in files.documentation_pages()] + sorted(RESULTS.glob("*.md"))
    while pages:
        page = pages.pop()
        if page not in seen:
            seen.add(page)
            level = InclusionLevel.UNDEFINED if page.parent == RESULTS else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, source(page), inclusion=level, **_content(page)))
        text = page.read_text(encoding="utf-8") if page.suffix == ".md" else ""
        # MkDocs itself reports what is not there.
        pages += {link.target for link in links(page, text) if link.target.is_file()} - seen - set(pages)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links to files outside of docs/, and those from there."""
    here = page.file.src_uri
    origin = ROOT / here if (ROOT / here).exists() and not (DOCS / here).exists() else DOCS / here

    def rewritten(found: re.Match[str]) -> str:
        if (link := _link(origin, found)) is None or not found[1]:
            return found[0]
        return os.path.relpath(source(link.target), os.path.dirname(here) or ".") + link.anchor

    return LINK.sub(rewritten, markdown)


def _link(page: Path, found: re.Match[str]) -> Link | None:
    path, anchor = found[1], found[2] or ""
    if ":" in path or not (path or anchor):
        return None
    return Link(Path(os.path.normpath(page.parent / path)) if path else page, anchor)


def _content(page: Path) -> dict[str, str]:
    if page.suffix not in LEXERS:
        return {"abs_src_path": str(page)}
    name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
    return {"content": f"# `{name}`\n\n````{LEXERS[page.suffix]}\n{text}\n````\n"}
