"""The site has every page, and its hooks give links the place that they have there."""

import runpy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import cann_jax
from cann_jax.files import errors
from tests.builders import ROOT
from tests.docs.api_page import COMMAND, PAGE, api_page

HOOKS = runpy.run_path(str(ROOT / "docs/hooks.py"))
WHAT_TO_DO = (
    "name it in mkdocs.yml under nav: Tutorial (a lesson), How-to (a task), Reference (to look things up), "
    "Explanation (why) or Measurements (benchmarks/results); and, if it lies in docs/, in docs/index.md"
)


def test_nav_names_every_page_once():
    nav = list(_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    pages = {HOOKS["source"](page) for page in (ROOT / "docs").rglob("*.md")}
    pages |= {HOOKS["source"](page) for page in (ROOT / "benchmarks/results").glob("*.md")}
    assert not pages - set(nav), f"{sorted(pages - set(nav))} is on no menu: {WHAT_TO_DO}"
    assert not set(nav) - pages, f"mkdocs.yml names {sorted(set(nav) - pages)}, which is no page: take it out"
    assert len(nav) == len(set(nav)), "mkdocs.yml names a page twice"


def _pages(nav: Any) -> Iterator[str]:
    for item in nav:
        for entry in item.values() if isinstance(item, dict) else [item]:
            yield from [entry] if isinstance(entry, str) else _pages(entry)


def test_home_names_every_page_but_measurements():
    home = ROOT / "docs/index.md"
    linked = {link.target for link in HOOKS["links"](home, home.read_text(encoding="utf-8"))}
    absent = set((ROOT / "docs").rglob("*.md")) - linked - {home}
    assert not absent, f"docs/index.md does not link to {sorted(page.name for page in absent)}"


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("dual.md", "../benchmarks/results/dual.md", "benchmarks/results/dual.md"),
        ("howto/margins.md", "../../benchmarks/results/dual.md#x", "../benchmarks/results/dual.md#x"),
        ("tutorial.md", "../examples/own_loop.py", "examples/own_loop.py.md"),
        ("howto/methods.md", "../constraint.md#a", "../constraint.md#a"),
        ("benchmarks/results/dual.md", "../../docs/dual.md", "../../dual.md"),
        ("benchmarks/results/constraint.md", "constraint.png", "constraint.png"),
        ("index.md", "https://jax.dev", "https://jax.dev"),
        ("index.md", "#a", "#a"),
    ],
)
def test_links_are_rewritten_to_their_place_in_the_site(page, link, expected):
    class Page:
        class file:
            src_uri = page

    assert HOOKS["on_page_markdown"](f"a [b]({link}) c", Page) == f"a [b]({expected}) c"


def test_every_public_name_is_on_the_page_of_the_api():
    text = PAGE.read_text(encoding="utf-8")
    lines = [line.removeprefix("::: ") for line in text.splitlines() if line.startswith("::: ")]
    assert sorted(lines) == sorted(f"{module}.{name}" for name, module in cann_jax._HOMES.items())


def test_the_page_of_the_api_says_what_each_name_is():
    text = PAGE.read_text(encoding="utf-8")
    assert text == api_page(text), f"docs/reference/api.md is out of date; run {COMMAND}"
    assert text.count("\n| `") == len(cann_jax.__all__)


def test_every_exit_status_is_in_the_table():
    rows = (ROOT / "docs/reference/exit_statuses.md").read_text(encoding="utf-8").splitlines()
    found = {
        int(row.split("|")[1]) for row in rows if row.startswith("| ") and row.split("|")[1].strip().isdigit()
    }
    raised = {each.exit_status for each in vars(errors).values() if hasattr(each, "exit_status")}
    assert found == raised | {0, 1, errors.INTERRUPTED, errors.BROKEN_PIPE}
