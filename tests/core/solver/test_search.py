"""Tables of kinds that made a solver give up, found by a search over thousands; judged in float64."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import METHODS, solve_dual
from tests.analysis.independent import Dual, Goal

PROMPTS, RESPONSES = 64, 5
SOLVE = {method: jax.jit(lambda *table, by=method: solve_dual(Scores(*table[:2]), *table[2:], by))
         for method in METHODS}  # fmt: skip


def drawn(kind, seed, count):
    """reward, constraints, margins that some policy reaches, and β."""
    rng = np.random.default_rng([seed, count])
    reward = rng.normal(size=(PROMPTS, RESPONSES))
    scores = rng.normal(size=(PROMPTS, RESPONSES, count)) + rng.normal(size=(PROMPTS, RESPONSES, 1))
    scores = scores - 0.5 * reward[..., None]
    beta = np.exp(rng.uniform(np.log(0.02), 0))
    if kind == "likert":
        reward, scores = (np.clip(np.round(3 + x), 1, 5) for x in (1.2 * reward, scores))
    elif kind == "binary":
        scores, beta = (scores > rng.normal(size=count)).astype(float), rng.uniform(0.02, 0.035)
    elif kind == "parallel":
        scores = scores[..., :1] + 10.0 ** rng.uniform(-6, -1) * rng.normal(size=scores.shape)
    elif kind == "scales":
        scores = scores * 10.0 ** rng.uniform(-3, 3, size=count)
    spread = scores.std(1).mean(0)
    best = np.argmax((scores / np.where(spread > 0, spread, 1)) @ rng.dirichlet(np.ones(count)), axis=1)
    reached = np.take_along_axis(scores, best[:, None, None], 1)[:, 0].mean(0) - scores.mean((0, 1))
    margins = rng.uniform(0.05, 0.8) * reached - 0.01 * spread * np.abs(rng.normal(size=count))
    return tuple(np.asarray(x, np.float32) for x in (reward, scores, margins, beta))


def residual_in_float64(reward, scores, margins, beta, multipliers):
    """max_j |min(λ_j s_j/β, ∂_jD/s_j)|."""
    reward, scores, margins, beta, multipliers = (
        np.asarray(x, float) for x in (reward, scores, margins, beta, multipliers)
    )
    centred = scores - scores.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean((0, 1)))
    spread[spread == 0] = 1
    policy = softmax((reward + centred @ multipliers) / beta, axis=1)
    slope = np.einsum("nk,nkm->m", policy, centred) / len(reward) - margins
    return np.max(np.abs(np.minimum(multipliers * spread / beta, slope / spread)))


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("kind", ["likert", "binary", "parallel", "scales"])
def test_newton_solves_what_can_be_reached(kind, count):
    """On binary scores a vanished Hessian was rounding of either sign, and its inverse went uphill."""
    for seed in range(60):
        table = drawn(kind, seed, count)
        found = SOLVE["newton"](*table)
        assert found.converged and found.feasible == Feasible.YES, seed
        assert residual_in_float64(*table, found.multipliers) <= 3e-5, seed


@pytest.mark.parametrize("kind", ["likert", "parallel"])
def test_newton_takes_over_where_lbfgsb_gives_up(kind):
    fell_back = 0
    for seed in range(20):
        table = drawn(kind, seed, 3)
        found = SOLVE["lbfgsb"](*table)
        assert found.converged, seed
        assert residual_in_float64(*table, found.multipliers) <= 3e-5, seed
        fell_back += bool(found.fell_back)
        assert not SOLVE["newton"](*table).fell_back
    assert fell_back >= 3 if kind == "parallel" else fell_back == 0


def test_lanes_and_derivatives_of_an_answer_that_newton_gave():
    reward, scores, margins, beta = next(
        table
        for table in (drawn("parallel", seed, 3) for seed in range(20))
        if SOLVE["lbfgsb"](*table).fell_back
    )

    def improvement(margins, method):
        return solve_dual(Scores(reward, scores), margins, beta, method).predicted_constraints

    both = np.stack([margins, 0.9 * margins])
    lanes = [jax.vmap(lambda b, by=method: improvement(b, by))(both) for method in METHODS]
    np.testing.assert_allclose(*lanes, atol=1e-4)
    slopes = [jax.jacfwd(improvement)(margins, method) for method in METHODS]
    np.testing.assert_allclose(*slopes, atol=0.05)


def test_a_bent_valley_is_followed_to_its_end():
    """Four prompts; steps cut back along a line were at λ_2 = .254 after 80 evaluations; .1595 is right."""
    reward = [[1.786, -2.198], [2.822, -2.837, -0.241], [0.773, 2.151], [-1.279, 2.977, -0.883]]
    first = [[-1.121, 1.976], [-1.788, 2.864, 0.3], [0.968, 0.266], [1.498, -0.278, 2.306]]
    second = [4.0 * np.array([0.718, -0.326, -0.673])]
    third = [4.0 * np.array([2.217, -0.689, 2.045])]
    outside = [np.zeros(len(row)) for row in reward[:3]]
    ones, margins = np.ones(4), [-0.6794, -0.4058, 0.7182]
    goals = [
        Goal([np.array(row) for row in rows], "margin", margin, ones)
        for rows, margin in zip((first, [*outside, *second], [*outside, *third]), margins, strict=True)
    ]
    expected = Dual([np.array(row) for row in reward], ones, goals, 0.2).minimum()

    def padded(rows):
        return np.array([np.append(row, np.zeros(3 - len(row))) for row in rows], np.float32)

    mask = np.arange(3) < np.array([[len(row)] for row in reward])
    table = Scores(padded(reward), np.stack([padded(goal.scores) for goal in goals], -1), mask)
    for method in METHODS:
        found = solve_dual(table, np.float32(margins), 0.2, method)
        assert found.converged and found.iterations < 80
        np.testing.assert_allclose(found.multipliers, expected, rtol=1e-3)
