"""What the documentation names exists: files, rooms, links and examples."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from cann_jax.config.scorers import KINDS

ROOT = Path(__file__).resolve().parents[2]
HOOKS = runpy.run_path(str(ROOT / "docs/hooks.py"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return set(map(HOOKS["slug"], headings))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target, anchor in HOOKS["links"](page, page.read_text(encoding="utf-8")):
        assert target.exists(), target
        assert not anchor or anchor.removeprefix("#") in anchors(target), anchor


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


MADE_UP = {"stages/lengths.py"}  # by the recipes


def found_at(name: str) -> Path | None:
    """The file of this name, from the root or from the package."""
    return next((path for path in (ROOT / name, ROOT / "cann_jax" / name) if path.exists()), None)


def test_files_of_the_architecture_exist():
    prose = re.sub(r"```.*?```", "", ARCHITECTURE, flags=re.DOTALL)
    files = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|md))`", prose)) - MADE_UP
    assert len(files) > 40
    assert not [name for name in files if found_at(name) is None]


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md"])
def test_files_and_targets_that_the_rules_name_exist(page):
    text, makefile = (ROOT / page).read_text(encoding="utf-8"), (ROOT / "Makefile").read_text()
    files = set(re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|md))?)`", text))
    targets = set(re.findall(r"make ([a-z][a-z-]*)", text))
    assert len(files) > 4 and targets
    assert not [name for name in files if found_at(name) is None]
    assert not [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


def test_functions_of_the_architecture_are_where_it_says():
    """Written as `function` (`file`), or as `file`, `function`."""
    path, name = r"`((?:\w+/)+\w+\.py)`", r"`(\w+)`"
    prose = ARCHITECTURE.partition("## Freshness")[0]
    pairs = {(file, function) for function, file in re.findall(rf"{name}\s+\({path}", prose)}
    pairs |= set(re.findall(rf"{path},\s+{name}\)", prose))
    pairs |= {(file, function) for function, file in re.findall(rf"{name},\s+{path}\)", prose)}
    assert len(pairs) > 20
    for file, function in pairs:
        source = found_at(file)
        assert source and re.search(
            rf"^\s*(def|class) {function}\b|^{function}\b", source.read_text(), re.M
        ), function


def test_example_of_the_readme_runs():
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    found: dict = {}
    exec(example, found)
    assert found["solution"].converged and found["label"].shape == (2,)


def test_every_scorer_kind_is_named_for_people():
    text = (ROOT / "README.md").read_text()
    assert not [kind for kind in KINDS if f"`{kind}`" not in text]


def test_extras_are_on_the_page_and_asked_for_where_they_are():
    """No registry has the package, so that pip finds 'cann-jax[…]' nowhere."""
    extras = (ROOT / "setup.py").read_text().partition("extras_require={")[2].partition("}")[0]
    table = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/howto/install.md").read_text(), re.MULTILINE)
    names = [name for cell in table for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted(re.findall(r'^\s*"(\w+)":', extras, re.MULTILINE))
    texts = [*PAGES, *(ROOT / "cann_jax").rglob("*.py"), *(ROOT / "examples").iterdir()]
    assert not [path for path in texts if path.is_file() and "install 'cann-jax" in path.read_text("utf-8")]
