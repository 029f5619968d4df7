"""Bad tables are one-line errors that name the score and the fix; odd ones are counted."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.exploration.curve import dual_curve
from cann_jax.core.scores import Scores, ScoreSummary, check_scores, count_prompts
from cann_jax.core.solver.solve import solve_dual
from cann_jax.files.errors import InputError

R, G = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(2, 3, 2) % 5


def refused(match, scores, names=("safe", "polite")):
    with pytest.raises(InputError, match=match) as caught:
        check_scores(scores, names)
    assert "\n" not in str(caught.value)


def test_wrong_shapes():
    refused("reward has shape", Scores(R[0], G))
    refused("constraints have shape", Scores(R, G[..., 0]))
    refused("constraints have shape", Scores(R, G[:1]))
    refused("mask has shape", Scores(R, G, mask=np.ones((2, 2), bool)))
    refused("prompt_weights has shape", Scores(R, G, prompt_weights=np.ones(3)))
    refused("baseline has shape", Scores(R, G, baseline=np.ones(3)))
    refused("names: 1 given for 2 constraints; give one each", Scores(R, G), ["safe"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_named_and_located(bad):
    broken = G.copy()
    broken[1, 2, 1] = bad
    refused(r"polite: 1 scores are NaN or infinite \(prompt 1 response 2\)", Scores(R, broken))
    check_scores(Scores(R, broken, mask=np.array([[1, 1, 1], [1, 1, 0]], bool)))


def test_weights_must_weigh():
    refused("prompt_weights", Scores(R, G, prompt_weights=np.array([1.0, -1.0])))
    refused("prompt_weights", Scores(R, G, prompt_weights=np.zeros(2)))
    refused("mask is False everywhere", Scores(R, G, mask=np.zeros((2, 3), bool)))


def test_identical_and_single_responses_are_counted():
    table = Scores(np.array([[1.0, 1, 1], [1, 2, 3], [4, 0, 0]]), np.ones((3, 3, 1)))
    table = dataclasses.replace(table, mask=np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]], bool))
    summary = check_scores(table)
    assert (summary.prompts, summary.responses) == (3, 7)
    assert (summary.identical, summary.single_response) == (1, 1)


@pytest.mark.parametrize("responses", [0, 1, 2, 7])
def test_counts_are_those_of_going_through_the_prompts(responses):
    """Scores of few values and many gaps; a part of a table may hold nothing at all."""
    rng = np.random.default_rng(0)
    shape = (200 if responses else 0, responses)
    reward, constraints = rng.integers(2, size=shape) * 1.0, rng.integers(2, size=(*shape, 2)) * 1.0
    mask = rng.random(shape) < 0.6
    rows = [np.column_stack([r, g])[m] for r, g, m in zip(reward, constraints, mask, strict=True)]
    alike = sum(len(own) > 1 and np.all(own == own[0]) for own in rows)
    counts = ScoreSummary(
        sum(map(bool, map(len, rows))), mask.sum(), sum(len(own) == 1 for own in rows), alike
    )
    assert count_prompts(reward, constraints, mask) == counts


def test_a_table_without_any_choice_is_refused():
    refused("every prompt's responses score the same", Scores(np.ones((2, 3)), np.ones((2, 3, 2))))


def test_solver_settings():
    table = Scores(jnp.asarray(R), jnp.asarray(G))
    for settings, match in [
        (((0.1, 0.1), 0.0), "beta"),
        (((0.1, 0.1), -1.0), "beta"),
        (((0.1, np.nan), 0.1), "margins"),
        (((0.1,), 0.1), "one for each of the 2"),
        (((0.1, 0.1, 0.1), 0.1), "one for each of the 2"),
        (((0.1, 0.1), 0.1, "adam"), "lbfgsb, newton"),
    ]:
        with pytest.raises(InputError, match=match):
            solve_dual(table, jnp.array(settings[0]), *settings[1:])


@pytest.mark.parametrize("kind", [int, np.float16, np.float64])
def test_any_numeric_type_computes_in_jaxs_own_without_a_warning(kind, recwarn):
    rng = np.random.default_rng(0)
    reward, values = rng.integers(0, 5, (2, 50, 6)).astype(kind)
    found = solve_dual(Scores(reward, values[..., None]), np.array([0.4]), 0.5)
    assert found.multipliers.dtype == Scores(reward, values[..., None]).dtype == np.float32
    wanted = solve_dual(Scores(reward.astype(np.float32), values[..., None].astype(np.float32)), 0.4, 0.5)
    np.testing.assert_array_equal(found.multipliers, wanted.multipliers)
    assert [str(each.message) for each in recwarn] == []


def test_a_table_shows_its_shapes_and_a_solution_its_verdict():
    scores = Scores(R, G, mask=np.ones((2, 3), bool), names=["safe", "polite"])
    shapes = "reward (2, 3), constraints (2, 3, 2), mask (2, 3), names ('safe', 'polite'), float64"
    assert repr(scores) == f"Scores({shapes})"
    found, beyond = (solve_dual(scores, [margin, -9.0], 1.0) for margin in (0.1, 99.0))
    assert re.fullmatch(
        r"DualSolution\(λ\* of safe [\d.]+, λ\* of polite 0, feasible: yes, reward .*, KL .* nats\)",
        repr(found),
    )
    assert repr(beyond) == "DualSolution(λ* of safe inf, λ* of polite 0, feasible: no, not converged)"
    many = jax.vmap(lambda margin: solve_dual(scores, margin, 1.0))(np.array([[0.1, -9.0], [99.0, -9.0]]))
    assert repr(many) == "DualSolution(multipliers (2, 2), converged in 1 of 2)"
    # Maps of the tree put other things than arrays in both.
    assert repr(jax.tree.map(str, found)).startswith("DualSolution(multipliers [")
    assert repr(jax.tree.map(lambda _: None, scores)) == "Scores()"
    inside: list[str] = []
    jax.jit(lambda table: inside.append(f"{table} {solve_dual(table, [0.1, -9.0], 1.0)}"))(scores)
    assert inside == [
        "Scores(reward (2, 3), constraints (2, 3, 2), mask (2, 3), float32) DualSolution(multipliers (2,))"
    ]


@pytest.mark.parametrize(
    ("change", "margins", "problem"),
    [
        (lambda s: s, {"harm": 0.3}, "margins: given for harm; the constraints are safe, polite: give"),
        (
            lambda s: dataclasses.replace(s, names=None),
            {"safe": 0.3},
            "margins: given by name, but the scores",
        ),
        (lambda s: [1.0], [0.3], "scores: a list; give Scores, as Scores.from_table"),
        (lambda s: dataclasses.replace(s, names="ab"), [0.3], "names: 'ab' for 2 constraints; give a list"),
        (lambda s: dataclasses.replace(s, names=["safe"]), [0.3], r"names: \['safe'\] for 2 constraints"),
    ],
)
def test_margins_by_name_that_do_not_fit(change, margins, problem):
    with pytest.raises(InputError, match=problem):
        solve_dual(change(Scores(R, G, names=("safe", "polite"))), margins, 1.0)


@pytest.mark.parametrize("given", [lambda safe: {"polite": -9.0, "safe": safe}, lambda safe: [safe, -9.0]])
def test_margins_can_be_traced_in_part(given):
    scores = Scores(R, G, names=("safe", "polite"))
    found = jax.vmap(lambda safe: solve_dual(scores, given(safe), 1.0))(np.array([0.1, 0.2]))
    expected = solve_dual(scores, {"safe": 0.2, "polite": -9.0}, 1.0).multipliers
    np.testing.assert_allclose(found.multipliers[1], expected, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_scores_that_are_not_finite_are_no_table_out_of_reach(bad, kind):
    """A NaN was solved to λ* = 0, "feasible: no, not converged"."""
    broken = G.copy()
    broken[1, 2, 1] = bad
    scores = Scores(kind(R), kind(broken), names=("safe", "polite"))
    problem = r"polite: 1 scores are NaN or infinite \(prompt 1 response 2\)"
    with pytest.raises(InputError, match=problem):
        solve_dual(scores, [0.1, -9.0], 1.0)
    with pytest.raises(InputError, match=problem):
        dual_curve(scores, np.array([[0.1, -9.0]]), 1.0)
    masked = dataclasses.replace(scores, mask=np.array([[1, 1, 1], [1, 1, 0]], bool))
    assert solve_dual(masked, [0.1, -9.0], 1.0).converged
    assert not jax.jit(lambda table: solve_dual(table, [0.1, -9.0], 1.0))(scores).converged
