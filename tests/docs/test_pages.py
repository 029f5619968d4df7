"""What the documentation names exists: files, rooms, links and examples."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_rooms_and_floors_are_those_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    expected = {
        name.strip(" ()"): len(layers) - index
        for index, layer in enumerate(layers)
        for name in layer.split("|")
    }
    rows = re.findall(r"^\| (\d+) \| (`.*?) \|", ARCHITECTURE, re.MULTILINE)
    found = {
        name.removesuffix("/").removesuffix(".py"): int(floor)
        for floor, names in rows
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert found == expected


def test_files_and_functions_of_the_architecture_exist():
    text = re.sub(r"```.*?```", "", ARCHITECTURE.partition("## Recipes")[0], flags=re.DOTALL)
    files = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text))
    assert len(files) > 20
    assert not [name for name in files if not any((ROOT / part / name).exists() for part in ("", "cann_jax"))]
    package = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cann_jax").rglob("*.py"))
    functions = set(re.findall(r"\(`([a-z_]+)`[,)]", text)) | set(re.findall(r"`([a-z_]+)` \(`", text))
    assert len(functions) > 15
    assert not [name for name in functions if f"def {name}(" not in package]


def test_example_of_the_readme_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
    found: dict = {}
    exec(example, found)
    assert found["solution"].converged and found["label"].shape == (2,)
