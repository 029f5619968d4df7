"""The house: what imports what, that no setting is without a reader, and that dependencies are declared."""

import ast
import dataclasses
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from cann_jax.config.judge import JudgeConfig
from cann_jax.config.model import PROMPT_SETS
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.runtime.mesh import AXES
from tests.builders import ROOT
from tests.builders.settings import classes_of

PACKAGE = ROOT / "cann_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if (
                node.module == "cann_jax"
                or (PACKAGE / node.module.partition(".")[2].replace(".", "/")).is_dir()
            ):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_one_file_imports_jaxopt():
    users = [
        module_of(path) for path in FILES if any(name.split(".")[0] == "jaxopt" for name in imports(path))
    ]
    assert users == ["core.solver.lbfgsb"]


def test_torch_is_no_dependency():
    assert not [path for path in FILES if any(name.split(".")[0] == "torch" for name in imports(path))]


@pytest.mark.parametrize(
    "name", ["", ".__main__", ".core.implicit", ".dual", ".analysis.solve_table", ".command_line.run_options"]
)
def test_import_is_light(name):
    heavy = "{'transformers', 'tensorflow_datasets', 'tensorflow', 'torch', 'flax'}"
    public = "[getattr(cann_jax, public) for public in cann_jax.__all__]"
    check = f"found = {heavy} & set(sys.modules); assert not found, found"
    code = f"import cann_jax{name}, sys; {public}; {check}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def schemas() -> list[type]:
    found = classes_of(RunConfig) | classes_of(ScoreModelConfig) | classes_of(JudgeConfig)
    return sorted(found, key=lambda schema: schema.__name__)


@cache
def attributes_read(path: Path) -> frozenset[str]:
    """Names of the attributes that a file reads, but for checks of settings against each other."""
    checks = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and (node.name.endswith("conflicts") or node.name == "uneven")
        for inner in ast.walk(node)
    }
    nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node not in checks)
    return frozenset(node.attr for node in nodes if isinstance(node.ctx, ast.Load))


@pytest.mark.parametrize("schema", schemas(), ids=lambda schema: schema.__name__)
def test_no_setting_without_a_reader(schema):
    read = frozenset().union(*map(attributes_read, FILES))
    # A permission is read by the check that refuses without it; axes of a mesh and sets of prompts by name.
    read |= {"allow_changed_reference", *AXES, *PROMPT_SETS}
    assert not {field.name for field in dataclasses.fields(schema)} - read


def test_files_are_small():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name for name, lines in lengths.items() if lines > 400}


CONSTRAINTS = ("constraints.txt", "constraints-newest.txt")


@pytest.mark.parametrize("constraints", CONSTRAINTS)
def test_imports_are_declared_and_pinned(constraints):
    setup = (ROOT / "setup.py").read_text()
    declared = set(re.findall(r'"([A-Za-z][\w-]*)[^"\n]*"', setup))
    pinned = {line.partition("==")[0] for line in (ROOT / constraints).read_text().splitlines()}
    third = {name.split(".")[0] for path in FILES for name in imports(path)} - set(sys.stdlib_module_names)
    names = {"yaml": "pyyaml", "profanity_check": "alt-profanity-check", "orbax": "orbax-checkpoint"}
    for name in third - {"cann_jax", "cann_jax_tools"}:
        package = names.get(name, name.replace("_", "-"))
        assert package in declared, package
        assert package.lower() in pinned, package


@pytest.mark.parametrize("constraints", CONSTRAINTS)
def test_constraints_hold_versions_and_no_path_of_a_machine(constraints):
    lines = [line for line in (ROOT / constraints).read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100 and not [line for line in lines if not re.fullmatch(r"[\w-]+==[\w.]+", line)]
