"""Whether two runs ended alike: every output of every stage, byte for byte, and weights by value."""

import json
import re
from pathlib import Path

import numpy as np

from tests.builders.runs import saved_weights

OF_THE_CLOCK = ("tokens_per_second", "mfu")  # of a step in metrics.jsonl
OF_A_CARD = re.compile(r", \d+ s$", re.MULTILINE)  # the seconds of all stages
OF_WEIGHTS = re.compile(r"((?:.*/)?weights)/")  # a stage's own, or those of each of its parts


def differences(ours: Path, theirs: Path, stages: list[str]) -> list[str]:
    """Return the outputs of these stages in which two runs' folders differ."""
    return [f"{stage}/{name}" for stage in stages for name in _different(ours / stage, theirs / stage)]


def _different(ours: Path, theirs: Path) -> list[str]:
    if not (ours / "manifest.json").exists():
        return ["not finished"]
    left, right = (
        set(json.loads((each / "manifest.json").read_text())["outputs"]) for each in (ours, theirs)
    )
    weights = {found[1] for name in left | right if (found := OF_WEIGHTS.match(name))}
    files = {name for name in left | right if not OF_WEIGHTS.match(name)}
    found = [
        name
        for name in sorted(files)
        if name not in left & right or _content(ours / name) != _content(theirs / name)
    ]
    return found + [name for name in sorted(weights) if not _same_weights(ours / name, theirs / name)]


def _content(path: Path) -> object:
    if path.name == "results.json":
        results = json.loads(path.read_text())
        results.get("summary", {}).pop("compute", None)  # its seconds; a score model has none
        return results
    if path.name == "README.md":
        return OF_A_CARD.sub("", path.read_text())
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in rows]


def _same_weights(ours: Path, theirs: Path) -> bool:
    left, right = saved_weights(ours), saved_weights(theirs)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in right)
