"""docs/reference/files.md names the columns and keys that a run writes."""

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cann_jax.core.solver.solution import DualSolution
from tests.builders import ROOT

PAGE = (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
NAME = "relevance"  # the run's constraint


def rows(heading: str) -> list[tuple[str, str]]:
    """The rows of the table with this heading: both cells, the constraint's name filled in."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def codes(cell: str) -> list[str]:
    """What a cell names as code, remarks in parentheses left out."""
    found = re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", cell))
    return [re.sub(r"\bNAME\b", NAME, name) for name in found]


def test_columns_are_those_of_the_tables(calibrated):
    for files, columns in rows("file | columns"):
        for name in codes(files):
            (path, *_) = sorted((calibrated / "runs/tiny").glob(name))
            if path.suffix == ".npy":
                assert np.load(path).dtype == np.float16
            else:
                assert pq.read_schema(path).names == codes(columns), name


# What this run has no reason to write: one constraint, few prompts, no report by group, no costs.
ABSENT = {
    "dual/dual.json": {"margin_scale", "tightest_together", "groups", "costs", "reward"},
    "evaluate/results.json": {"groups"},
}


@pytest.mark.parametrize("file", ABSENT)
def test_keys_are_those_of_the_results(calibrated, file):
    found = json.loads((calibrated / "runs/tiny" / file).read_text())
    solution = (
        {field.name for field in dataclasses.fields(DualSolution)} if file == "dual/dual.json" else set()
    )
    assert solution | documented_keys(file, found) - ABSENT[file] == found.keys()


def documented_keys(file: str, found: dict[str, Any]) -> set[str]:
    """The keys that the page gives a file, after a check of those within them against what was found."""
    documented = set()
    for keys, meaning in rows(f"key of `{file}` | is"):
        for key in codes(keys):
            documented.add(key.partition(".")[0])
            named, inner = set(codes(meaning)), at(found, key)
            if len(named) > 3:
                assert named == inner.keys() or (meaning.endswith("…") and named < inner.keys()), key
    return documented


def at(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = found.get(part)
    return found
