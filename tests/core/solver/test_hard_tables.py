"""Hard tables end in an answer or a clear status; float32 answers are judged in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.exploration.conflict import reachability
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual

RNG = np.random.default_rng(0)
R = RNG.normal(size=(64, 16))
G = RNG.normal(size=(64, 16)) - 0.5 * R
RAGGED = np.arange(16) < RNG.integers(1, 17, size=64)[:, None]


def residual_in_float64(reward, constraint, mask, margin, beta, multiplier):
    """The KKT residual by its definition, in units of the within-prompt standard deviation."""
    reward, constraint = np.float32(reward).astype(float), np.float32(constraint).astype(float)
    count = mask.sum(-1, keepdims=True)
    mean = np.where(mask, constraint, 0).sum(-1, keepdims=True) / count
    logits = np.where(mask, (reward + multiplier * constraint) / beta, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    slope = np.where(mask, weights * constraint, 0).sum(-1).mean() - mean.mean() - margin
    spread = np.sqrt((np.where(mask, constraint - mean, 0) ** 2).sum(-1) / count[:, 0]).mean() or 1.0
    return abs(min(multiplier * spread / beta, slope / spread))


TABLES = {
    "plain": (R, G, 0.5, 0.5, Feasible.YES),
    "reference suffices": (R, G, -1.5, 0.5, Feasible.YES),
    "out of reach": (R, G, 3.0, 0.5, Feasible.NO),
    "reward far larger than beta": (10 * R, 3 * G, 2.0, 0.02, Feasible.YES),
    "large offsets": (R + 1e4 * RNG.normal(size=(64, 1)), G + 1e4 * RNG.normal(size=(64, 1)), 0.5, 0.5, 1),
    "tiny": (1e-20 * R, 1e-20 * G, 0.5e-20, 0.5e-20, Feasible.YES),
    "huge": (1e15 * R, 1e15 * G, 0.5e15, 0.5e15, Feasible.YES),
    "constant constraint": (R, 0 * G + 3, 0.1, 0.5, Feasible.NO),
    "constant constraint met": (R, 0 * G + 3, -0.1, 0.5, Feasible.YES),
    "constant reward": (0 * R, G, 0.5, 0.5, Feasible.YES),
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_answer_or_status(name, ragged):
    reward, constraint, margin, beta, verdict = TABLES[name]
    mask = RAGGED if ragged else np.ones(R.shape, bool)
    table = Scores(
        jnp.asarray(np.where(mask, reward, np.nan), jnp.float32),
        jnp.asarray(np.where(mask, constraint, np.nan), jnp.float32)[..., None],
        jnp.asarray(mask),
    )
    solution = solve_dual(table, margin, beta, "newton")
    assert solution.feasible == verdict
    assert bool(solution.converged) == (verdict == Feasible.YES)
    assert not any(np.isnan(leaf).any() for leaf in vars(solution).values())
    if solution.converged:
        multiplier = float(solution.multipliers[0])
        assert residual_in_float64(reward, constraint, mask, margin, beta, multiplier) <= 1e-5
        assert solution.duality_gap == pytest.approx(
            0, abs=1e-4 * float(solution.spread[0] + np.abs(R).max())
        )


def test_logits_of_ten_million_are_a_status_and_no_answer():
    table = Scores(jnp.asarray(1e4 * R, jnp.float32), jnp.asarray(1e4 * G, jnp.float32)[..., None])
    solution = solve_dual(table, 5e3, 1e-3, "newton")
    assert solution.feasible == Feasible.YES and not solution.converged
    assert np.isfinite(solution.multipliers).all() and solution.kkt_residual > 1e-5


@pytest.mark.parametrize("prompts, responses", [(64, 1), (1, 16)])
def test_one_response_or_one_prompt(prompts, responses):
    table = Scores(jnp.asarray(R[:prompts, :responses]), jnp.asarray(G[:prompts, :responses])[..., None])
    solution = solve_dual(table, 0.4, 0.5, "newton")
    assert solution.feasible == (Feasible.NO if responses == 1 else Feasible.YES)
    assert bool(solution.converged) == (responses > 1)


def many_constraints(count, common, seed=1):
    """(64, 16, count) scores that share a part of size ``common``."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(64, 16, count)) + common * rng.normal(size=(64, 16, 1))
    return Scores(jnp.asarray(R, jnp.float32), jnp.asarray(g, jnp.float32))


def test_nineteen_harm_categories():
    table = many_constraints(19, 1.0)
    solution = solve_dual(table, jnp.full(19, 0.5), 0.5, "newton")
    assert solution.converged and solution.kkt_residual <= 1e-5
    assert (solution.multipliers > 0).any() and (solution.multipliers == 0).any()
    slack = np.asarray(solution.slack / solution.spread)
    assert slack.min() > -1e-5 and np.abs(slack[np.asarray(solution.multipliers) > 0]).max() < 1e-5


def test_nearly_parallel_constraints():
    twin = np.stack([G, G + 1e-3 * np.random.default_rng(2).normal(size=G.shape)], -1)
    table = Scores(jnp.asarray(R, jnp.float32), jnp.asarray(twin, jnp.float32))
    both = solve_dual(table, jnp.array([0.5, 0.5]), 0.5, "newton")
    alone = solve_dual(Scores(table.reward, table.constraints[..., :1]), 0.5, 0.5, "newton")
    assert both.converged
    assert both.multipliers.sum() == pytest.approx(float(alone.multipliers[0]), rel=1e-2)


def test_conflict_is_named_and_margins_scale_back():
    opposed = np.stack([G, -G + 0.3 * np.random.default_rng(3).normal(size=G.shape), R], -1)
    table = Scores(jnp.asarray(R, jnp.float32), jnp.asarray(opposed, jnp.float32))
    margins = jnp.array([0.5, 0.5, -0.2])
    found = reachability(table, margins)
    assert found.feasible == Feasible.NO and found.scale < 1
    assert list(found.conflict) == [True, True, False]
    inside = solve_dual(table, 0.99 * found.scale * margins, 0.5, "newton")
    outside = solve_dual(table, 1.01 * found.scale * margins, 0.5, "newton")
    assert inside.feasible == Feasible.YES and outside.feasible == Feasible.NO


def test_scale_of_one_constraint_is_its_largest_margin():
    table = Scores(jnp.asarray(R, jnp.float32), jnp.asarray(G, jnp.float32)[..., None])
    best = (G - G.mean(-1, keepdims=True)).max(-1).mean()
    assert reachability(table, 0.5).scale == pytest.approx(best / 0.5, rel=1e-4)
    assert reachability(table, -0.5).scale == np.inf
