"""Frames of pandas into scores and out: the same scores as the command reads, the same mistakes refused."""

import re

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cann_jax import Scores, certify, dual_curve, solve_dual
from cann_jax.analysis.example import example_table
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.solve_table import table_problem
from cann_jax.core.exploration.uncertainty import conservative_solution
from cann_jax.core.problem import Targets
from cann_jax.files.errors import InputError

TABLE = example_table(12, 6)


@pytest.fixture
def frame() -> pd.DataFrame:
    """A table with a weight, and with prompts of different numbers of responses."""
    found = TABLE.to_pandas().assign(weight=lambda rows: 1.0 + (rows["group"] == "inviting"))
    return found.drop(index=[0, 7, 8, 30]).rename(columns={"reward": "helpful"})


def equal(first: Scores, second: Scores) -> bool:
    both = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in both)


@pytest.mark.parametrize("kind", ["frame", "index", "arrow", "path"])
def test_the_scores_are_those_that_the_command_reads(frame, tmp_path, kind):
    path = tmp_path / "scores.parquet"
    frame.to_parquet(path)
    goals = ("safe=0", "polite@inviting=0")
    columns = {"reward": "helpful", "prompt_weights": "weight"}
    expected = table_problem(str(path), DualFlags(margin=goals, cost=("polite",), **columns))[0].scores
    given = {
        "frame": frame,
        "index": frame.set_index(["prompt", "response"]),
        "arrow": pa.Table.from_pandas(frame, preserve_index=False),
        "path": path,
    }[kind]
    found = Scores.from_table(given, constraints=["safe", "polite@inviting"], cost=["polite"], **columns)
    assert equal(found, expected)
    assert found.mask.shape == (12, 6) and found.mask.sum() == 12 * 6 - 4


def test_without_names_every_column_of_numbers_is_a_constraint(frame):
    found = Scores.from_table(frame.drop(columns="weight"), "helpful")
    assert equal(found, Scores.from_table(frame, "helpful", ["safe", "polite"]))


def test_rows_that_lack_something_are_left_out_with_a_warning(frame):
    holes = frame.assign(safe=frame["safe"].where(frame.index != 3))
    with pytest.warns(UserWarning, match=r"1 rows or responses lack something .*\(drop_missing=True\)"):
        found = Scores.from_table(holes, "helpful", ["safe"], drop_missing=True)
    assert equal(found, Scores.from_table(frame.drop(index=3), "helpful", ["safe"]))


def test_a_count_of_the_rows_is_left_out_with_a_warning(frame):
    bare = frame.drop(columns="weight")
    counted = bare.reset_index(drop=True).reset_index(names="Unnamed: 0")
    with pytest.warns(UserWarning, match="column 'Unnamed: 0' has no name and counts the rows"):
        assert equal(Scores.from_table(counted, "helpful"), Scores.from_table(bare, "helpful"))


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        (lambda f: 3, {}, "table: a int; give a file's name or a pandas DataFrame"),
        (lambda f: "none.csv", {}, "none.csv: no such file"),
        (lambda f: f, {"constraints": "safe"}, r"constraints: 'safe' is one text; give a list"),
        (lambda f: f, {"constraints": ["saf"]}, "table: no column saf; did you mean safe?"),
        (lambda f: f, {"constraints": ["safe@calm"]}, "constraint safe: no group calm"),
        (lambda f: f, {"cost": ["harm"]}, "cost: harm is neither the reward nor a constraint"),
        (
            lambda f: f.assign(safe=f.safe.where(f.index != 3)),
            {},
            "table: row 3 has no number in column safe; .*, or leave such rows out by drop_missing=True$",
        ),
        (lambda f: f.assign(other=f["group"]), {"groups": ["group", "other"]}, "^groups: .* is a group of"),
        (lambda f: f.assign(safe="a"), {"constraints": ["safe"]}, "table: row 1 holds 'a' in column safe"),
        (lambda f: f.assign(safe=[object()] * len(f)), {}, "table: Could not convert .*; give each column"),
        (lambda f: pd.concat([f, f[["safe"]]], axis=1), {}, "table: Duplicate column names"),
        (lambda f: f[["prompt", "helpful"]], {}, "constraints: none given"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(frame, change, arguments, problem):
    with pytest.raises(InputError, match=problem) as caught:
        Scores.from_table(change(frame), reward="helpful", **arguments)
    assert "\n" not in str(caught.value)


def test_a_solution_as_a_frame(frame):
    scores = Scores.from_table(frame, "helpful", ["safe", "polite"])
    solution = solve_dual(scores, [0.3, 0.1], 1.0)
    found = solution.to_frame(["safe", "polite"])
    assert found.index.tolist() == ["safe", "polite"] and found["feasible"].eq("yes").all()
    np.testing.assert_array_equal(found["multipliers"], solution.multipliers)
    np.testing.assert_array_equal(found["kl"], np.repeat(solution.kl, 2))
    curve = dual_curve(scores, np.array([[0.0, 0.1], [0.3, 0.1], [9.0, 0.1]]), 1.0).to_frame()
    assert curve.index.names == ["point", "constraint"] and len(curve) == 6
    np.testing.assert_allclose(curve.loc[1, "multipliers"], solution.multipliers, rtol=1e-3, atol=1e-5)
    assert curve.loc[2, "feasible"].eq("no").all() and np.isinf(curve.loc[(2, "safe"), "multipliers"])
    unknown = curve.loc[2, ["predicted_improvement", "slack", "predicted_reward", "kl", "value"]]
    assert unknown.isna().all(axis=None) and curve.loc[[0, 1]].notna().all(axis=None)
    with pytest.raises(InputError, match="names: 1 given for 2 constraints"):
        solution.to_frame(["safe"])


def test_a_certificate_as_a_frame():
    found = certify(np.random.default_rng(0).normal([1.0, 0.1], 1, (50, 2)), [0.5, 0.1])
    frame = found.to_frame(["safe", "polite"])
    assert frame.index.tolist() == ["safe", "polite"] and frame["verdict"].tolist() == ["holds", "undecided"]
    assert frame["prompts_needed"].isna().tolist() == [True, False]
    np.testing.assert_array_equal(frame["lower"], found.lower)
    assert found.to_frame().index.tolist() == ["constraint 0", "constraint 1"]


def test_the_names_of_a_table_are_those_of_its_solutions(frame):
    scores = Scores.from_table(frame, "helpful", ["safe", "polite@inviting"])
    solution = solve_dual(scores, {"polite@inviting": 0.1, "safe": 0.3}, 1.0)
    np.testing.assert_array_equal(solution.multipliers, solve_dual(scores, [0.3, 0.1], 1.0).multipliers)
    curve = dual_curve(scores, np.array([[0.0, 0.1]]), 1.0)
    for found in (solution, curve):
        assert found.to_frame().index.unique("constraint").tolist() == ["safe", "polite@inviting"]
    assert "<th>polite@inviting</th>" in solution._repr_html_()
    whole = np.ones(2, np.float32)
    targets = Targets(np.array([0.3, 0.1], np.float32), np.zeros(2, bool), None, whole)
    raised, _ = conservative_solution(scores, targets, 1.0)
    assert "<th>polite@inviting</th>" in raised._repr_html_() and "λ* of safe" in repr(raised)
    # Inside a transformation there are none, so that none has to match and nothing compiles for them anew.
    assert jax.tree.structure(scores) == jax.tree.structure(
        Scores.from_table(frame, "helpful", ["polite", "safe"])
    )
    np.testing.assert_allclose(jax.jit(lambda s: solve_dual(s, [0.3, 0.1], 1.0).kl)(scores), solution.kl)


def test_a_notebook_shows_tables_with_the_verdict_in_words(frame):
    scores = Scores.from_table(frame, "helpful", ["safe"])
    solution, beyond = (solve_dual(scores, [margin], 1.0) for margin in (0.3, 99.0))
    margin, multiplier, improvement = re.findall(r"<td>([^<]+)</td>", solution._repr_html_())
    assert (margin, improvement) == ("0.3", "0.3")
    assert float(multiplier) == pytest.approx(float(solution.multipliers[0]), rel=1e-3)
    assert solution._repr_html_().startswith("<p><strong>λ* found</strong>: reward ")
    assert beyond._repr_html_().startswith("<p><strong>out of reach</strong>") and "∞" in beyond._repr_html_()
    curve = dual_curve(scores, np.array([[0.1], [99.0]]), 1.0)
    assert curve._repr_html_().startswith("<p><strong>2 solutions for 1 constraint</strong>: λ* found in 1;")
    jax.jit(lambda inside: inside.kl if inside._repr_html_() is None else None)(solution)
    gains = np.random.default_rng(0).normal([1.0, 0.1], 1, (50, 2))
    certificate = certify(gains, [0.5, 0.1], confidence=0.995)
    html = certificate._repr_html_()
    assert html.startswith("<p><strong>UNDECIDED</strong>: at 99.5% confidence</p>")
    assert html.count("HOLDS") == 1 and str(certificate.prompts_needed[1]) in html
