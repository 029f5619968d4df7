"""Random tables in every format: an independent float64 dual's answer, or one line, by both ways of reading.

``TABLE_EXAMPLES=1000`` tries that many tables.
"""

import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cann_jax.analysis.solve_table import table_problem
from cann_jax.command_line.commands import DUAL
from cann_jax.command_line.parser import parse_flags
from cann_jax.core.exploration.conflict import reachability, settle
from cann_jax.core.feasibility import Feasible
from cann_jax.core.solver.solve import solve_dual
from cann_jax.dual import main
from cann_jax.files.errors import InfeasibleError, InputError
from tests.analysis.independent import Dual, Goal
from tests.analysis.random_tables import (
    CHATS,
    FORMATS,
    NAMES,
    RandomTable,
    as_csv,
    parquet,
    random_table,
)
from tests.analysis.small_table import uncounted

many = settings(max_examples=int(os.environ.get("TABLE_EXAMPLES", "40")), deadline=None, derandomize=True)
PROMPTS = 4
KINDS = ("margin", "at_least", "max_unsafe")
EDGE = 0.02  # of a spread: so near to the edge of what responses can reach, float32 may not tell
LOST = {"spaces": ("", " 7"), "tsv": ()}  # names that a format cannot hold


@st.composite
def cases(draw):
    """A table, its format, the flags about it, and its dual."""
    kind = draw(st.sampled_from(sorted(FORMATS)))
    nested = kind in ("float64", "jsonl", "json") and draw(st.booleans())
    names = [name for name in NAMES if name not in LOST.get(kind, ())]
    prompts = CHATS if nested else draw(st.permutations(names))[:PROMPTS]
    m = draw(st.integers(1, 4))
    table = random_table(
        draw(st.integers(0, 2**31)),
        m,
        whole=draw(st.booleans()),
        ragged=draw(st.booleans()),
        prompts=prompts,
        ungrouped=kind != "npz",
    )
    beta = draw(st.sampled_from([0.2, 0.5, 2.0]))
    flags = ["--beta", str(beta)]
    weighted = draw(st.booleans())
    weights = table.weights if weighted else np.ones(PROMPTS)
    flags += ["--prompt_weights", "weight"] if weighted else []
    goals = []
    for j in range(m):
        goal, asked = draw_goal(draw, table, f"g{j}", weights)
        goals.append(goal)
        flags += asked
    goals.sort(key=lambda goal: KINDS.index(goal.kind))  # the command's order
    dual = Dual(table.scores["reward"], weights, goals, beta)
    cost = f"g{draw(st.integers(0, m - 1))}" if draw(st.booleans()) else None
    if cost is not None:
        table.scores[cost] = [-values for values in table.scores[cost]]
        flags += ["--cost", cost]
    return table, kind, draw(st.sampled_from([2, 5, 1000])), flags, dual


def draw_goal(draw, table: RandomTable, name: str, weights: np.ndarray) -> tuple[Goal, list[str]]:
    """A goal about a score, of which its group may reach some part, and its flags."""
    kind = draw(st.sampled_from(KINDS))
    group = draw(st.sampled_from([None, None, "a", "b"]))
    members = np.array([1.0 if group is None else float(own == group) for own in table.groups])
    scores, below = table.scores[name], 0.0
    if kind == "max_unsafe":
        below = draw(st.sampled_from([0.0, 0.5]))
        scores = [(g >= below).astype(float) for g in scores]
    inside = weights * members / np.sum(weights * members)
    mean = sum(w * g.mean() for w, g in zip(inside, scores, strict=True))
    best = sum(w * g.max() for w, g in zip(inside, scores, strict=True))
    share = draw(st.sampled_from([-0.5, 0.1, 0.3, 0.5, 0.7, 1.2]))
    value = round(share * (best - mean) + (mean if kind != "margin" else 0), 4)
    flags = []
    if kind == "max_unsafe":
        value = round(float(np.clip(1 - value, 0, 0.99)), 4)
        flags = ["--unsafe_below", f"{name}={below}"]
    target = name if group is None else f"{name}@{group}"
    return Goal(table.scores[name], kind, value, members, below), [f"--{kind}", f"{target}={value}", *flags]


def in_memory(path: str, flags: list[str]) -> tuple[str, bool, np.ndarray]:
    """The verdict and λ by the problem that the command states."""
    parsed = parse_flags(["--scores", path, *flags], DUAL)
    problem, _ = table_problem(path, parsed)
    solution = solve_dual(problem.scores, problem.margins, parsed.beta, "newton")
    if len(problem.names) > 1 or solution.feasible == Feasible.UNDETERMINED:
        solution = settle(solution, reachability(problem.scores, np.asarray(problem.margins)))
    verdict = Feasible(int(solution.feasible)).name
    return verdict, bool(solution.converged), np.asarray(solution.multipliers, float)


def streamed(path: str, flags: list[str]) -> tuple[str, bool, np.ndarray]:
    """The verdict and λ by the command with ``--stream``."""
    out = Path(path).parent / "out"
    try:
        main(["--scores", path, *flags, "--stream", "--out", str(out)])
    except InfeasibleError as error:
        assert "reach" in str(error) or "conflict" in str(error)
    found = json.loads((out / "dual.json").read_text())
    return found["feasible"].upper(), found["converged"], np.array(found["multipliers"], float)


def check(found: tuple[str, bool, np.ndarray], dual: Dual) -> None:
    """Compare a verdict and λ with the independent dual."""
    verdict, converged, multipliers = found
    reach = dual.reach()
    if reach < -EDGE:
        assert verdict == "NO" and np.isinf(multipliers).any()
    elif reach > EDGE:
        if (
            not converged
        ):  # which the command says; Newton's method may be slow on nearly parallel constraints
            assert len(multipliers) > 1
            return event("not converged")
        assert verdict == "YES"
        assert dual.residual(multipliers) < 1e-3
        expected = dual.minimum()
        curvature = np.linalg.eigvalsh(dual.curvature(expected) / np.outer(dual.units, dual.units))
        if curvature[0] > 0.02:
            np.testing.assert_allclose(multipliers, expected, rtol=5e-3, atol=1e-3)
        assert dual.value(multipliers) <= dual.value(expected) + 1e-4 * (1 + abs(dual.value(expected)))


@many
@given(cases())
def test_every_format_has_the_answer_of_an_independent_dual(case):
    table, kind, rows, flags, dual = case
    suffix, save = FORMATS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scores{suffix}"
        save(path, table, rows)
        check(in_memory(str(path), flags), dual)
        if suffix.lower() == ".parquet":
            check(streamed(str(path), flags), dual)


def other_group(row):
    row["group"] = {"a": "b"}.get(row["group"], "a")


# What is wrong with a row, in a table whose rows were right.
FAULTS = {
    "no prompt": lambda row: row.update(prompt=None),
    "no response": lambda row: row.update(response=None),
    "no score": lambda row: row.update(g0=float("nan")),
    "null score": lambda row: row.update(reward=None),
    "infinite": lambda row: row.update(g0=float("inf")),
    "too large": lambda row: row.update(reward=-1e39),
    "negative weight": lambda row: row.update(weight=-1.0),
    "no weight": lambda row: row.update(weight=None),
    "another weight": lambda row: row.update(weight=row["weight"] + 1),
    "another group": other_group,
}
MISSING = ("no prompt", "no response", "no score", "null score", "no weight")


def error_of(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert type(caught.value) is InputError and "\n" not in message and len(message) < 400
    return message


@many
@given(
    st.integers(0, 2**31),
    st.lists(
        st.tuples(st.sampled_from(sorted(FAULTS)), st.integers(0, 11)),
        min_size=1,
        max_size=2,
        unique_by=lambda fault: fault[1],
    ),
    st.sampled_from([2, 5, 1000]),
    st.booleans(),
)
def test_a_fault_is_one_line_and_the_same_by_both_ways(seed, faults, rows, drop):
    table = random_table(seed, 1, whole=False, ragged=False, prompts=[f"p{n}" for n in range(PROMPTS)])
    content = table.rows()
    for name, row in faults:
        FAULTS[name](content[row])
    flags = ["--margin", "g0=0.1", "--prompt_weights", "weight", "--beta", "0.5"]
    flags += ["--drop_missing"] if drop else []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scores.parquet")
        parquet(Path(path), pa.Table.from_pylist(content), rows)
        if drop and all(name in MISSING for name, _ in faults):
            memory, stream = in_memory(path, flags), streamed(path, flags)
            assert memory[:2] == stream[:2]
            np.testing.assert_allclose(stream[2], memory[2], rtol=1e-3, atol=1e-3)
            assert table_problem(path, parse_flags(flags, DUAL))[1].dropped == len({row for _, row in faults})
            return
        line = error_of(in_memory, path, flags)
        assert uncounted(line) == error_of(streamed, path, flags)
        assert any(f"row {row + 1} " in line or "of the same prompt" in line for _, row in faults)
        csv_path = str(Path(folder) / "scores.csv")
        Path(csv_path).write_text(as_csv(content), newline="")
        if not drop:
            by_line = re.sub(r"row (\d+)", lambda row: f"line {int(row[1]) + 1}", line)
            assert error_of(in_memory, csv_path, flags).replace(".csv", ".parquet") == by_line
