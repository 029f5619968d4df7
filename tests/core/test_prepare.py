"""Groups, chance constraints, levels, clips and weights are data over the one solver."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.dual import tilted_weights
from cann_jax.core.feasibility import largest_margin
from cann_jax.core.preference import pseudo_reward
from cann_jax.core.prepare import meets, prepare
from cann_jax.core.problem import Constraint
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.files.errors import InputError

RNG = np.random.default_rng(0)
REWARD = RNG.normal(size=(32, 8)).astype(np.float32)
SAFE = (RNG.normal(size=(32, 8)) - 0.5 * REWARD).astype(np.float32)
SCORES = {"safe": SAFE}
GROUP = np.arange(32) < 12
BETA = 0.5


def solve(problem):
    return solve_dual(problem.scores, problem.margins, BETA, "newton")


def test_a_group_is_solved_as_if_it_stood_alone_with_the_factor_in_its_labels():
    problem = prepare(REWARD, SCORES, [Constraint("safe", margin=0.4, group="harm")], {"harm": GROUP})
    assert problem.names == ("safe@harm",)
    solution = solve(problem)
    alone = solve_dual(
        Scores(jnp.asarray(REWARD[GROUP]), jnp.asarray(SAFE[GROUP])[..., None]), 0.4, BETA, "newton"
    )
    # the factor 1/p in g makes λ on the whole p times the group's own, at the same tilt r + λ·g/p
    assert solution.multipliers[0] / (12 / 32) == pytest.approx(float(alone.multipliers[0]), rel=1e-3)
    assert solution.predicted_improvement[0] == pytest.approx(0.4, abs=1e-4)
    labels = np.asarray(pseudo_reward(problem.scores, solution.multipliers))
    np.testing.assert_array_equal(labels[~GROUP], REWARD[~GROUP])
    factor = float(solution.multipliers[0]) * 32 / 12
    np.testing.assert_allclose(labels[GROUP], REWARD[GROUP] + factor * SAFE[GROUP], rtol=1e-4, atol=1e-4)


def test_whole_numbers_are_solved_as_the_same_floats():
    whole = np.round(2 * REWARD).astype(int), np.round(3 * SAFE).astype(int)
    wanted = [Constraint("safe", margin=0.4, group="harm", clip=(-4, 5))]
    answers = [
        solve(prepare(reward, {"safe": safe}, wanted, {"harm": GROUP})).multipliers
        for reward, safe in (whole, [values.astype(np.float32) for values in whole])
    ]
    assert answers[1][0] > 0.01
    np.testing.assert_array_equal(*answers)


def test_a_chance_constraint_bounds_the_share_of_unsafe_weight():
    problem = prepare(REWARD, SCORES, [Constraint("safe", max_unsafe=0.2, unsafe_below=-0.3)])
    solution = solve(problem)
    weights = np.asarray(tilted_weights(solution.multipliers, problem.scores, BETA))
    assert (weights * (SAFE < -0.3)).sum(-1).mean() == pytest.approx(0.2, abs=1e-4)
    unsafe = (SAFE < -0.3).mean()
    np.testing.assert_allclose(problem.margins, [unsafe - 0.2], rtol=1e-5)
    any_safe = (SAFE >= -0.3).any(-1).mean()
    np.testing.assert_allclose(largest_margin(problem.scores), [any_safe - (1 - unsafe)], atol=1e-6)


def test_a_level_is_a_margin_over_the_reference():
    level = float(SAFE.mean()) + 0.3
    by_level = solve(prepare(REWARD, SCORES, [Constraint("safe", at_least=level)]))
    by_margin = solve(prepare(REWARD, SCORES, [Constraint("safe", margin=0.3)]))
    np.testing.assert_allclose(by_level.multipliers, by_margin.multipliers, rtol=1e-4)
    assert by_level.predicted_constraints[0] == pytest.approx(level, abs=1e-4)


def test_levels_and_group_shares_move_with_the_prompt_weights():
    wanted = [Constraint("safe", at_least=0.3, group="harm")]
    problem = prepare(REWARD, SCORES, wanted, {"harm": GROUP})
    weights = RNG.random(32).astype(np.float32)
    again = prepare(REWARD, SCORES, wanted, {"harm": GROUP}, prompt_weights=weights)
    weights = weights / weights.sum()
    reweighed = dataclasses.replace(problem.scores, prompt_weights=weights)
    baseline = np.einsum("n,nkm->m", weights, np.asarray(problem.scores.constraints)) / 8
    margins = problem.targets.margins(weights, baseline)
    theirs = solve(again)
    ours = solve_dual(reweighed, margins, BETA, "newton")
    scale = problem.targets.rescale(weights)
    np.testing.assert_allclose(ours.multipliers / scale, theirs.multipliers, rtol=2e-3)


@pytest.mark.parametrize("weights", [None, 1.0 + np.arange(200_000) % 5])
def test_margins_of_many_prompts_are_those_asked_for(weights):
    """Shares of groups were summed in float32: .4 was .4004, and .3994 at a million prompts."""
    scores = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    asked = [Constraint("safe", margin=0.4), Constraint("again", margin=0.3, group="odd")]
    groups = {"odd": np.arange(len(scores)) % 2 == 1}
    problem = prepare(scores, {"safe": scores, "again": scores}, asked, groups=groups, prompt_weights=weights)
    np.testing.assert_allclose(problem.margins, [0.4, 0.3], rtol=2e-7)


def test_repeating_a_prompt_is_weighing_it_twice():
    weights = np.ones(32, np.float32)
    weights[:5] = 2
    wanted = [Constraint("safe", margin=0.3)]
    weighed = solve(prepare(REWARD, SCORES, wanted, prompt_weights=weights))
    rows = np.r_[np.arange(32), np.arange(5)]
    repeated = solve(prepare(REWARD[rows], {"safe": SAFE[rows]}, wanted))
    np.testing.assert_allclose(weighed.multipliers, repeated.multipliers, rtol=1e-3)


def test_clips():
    problem = prepare(REWARD, SCORES, [Constraint("safe", margin=0.1, clip=(-1, 0.5))], reward_clip=(-1, 1))
    assert np.abs(problem.scores.reward).max() == 1
    assert problem.scores.constraints.max() == 0.5 and problem.scores.constraints.min() == -1


@pytest.mark.parametrize(
    "constraint, match",
    [
        (Constraint("saef", margin=1), "did you mean safe"),
        (Constraint("safe"), "exactly one of margin, at_least and max_unsafe"),
        (Constraint("safe", margin=1, at_least=1), "exactly one"),
        (Constraint("safe", margin=np.nan), "not a finite number"),
        (Constraint("safe", max_unsafe=1.5), r"share in \[0, 1\)"),
        (Constraint("safe", margin=1, group="harms"), "no group harms; did you mean harm"),
        (Constraint("safe", margin=1, group="none"), "no prompt of any weight"),
        (Constraint("safe", margin=1, clip=(2, 1)), "not below"),
    ],
)
def test_mistakes_are_named(constraint, match):
    groups = {"harm": GROUP, "none": np.zeros(32, bool)}
    with pytest.raises(InputError, match=match):
        prepare(REWARD, SCORES, [constraint], groups)


@pytest.mark.parametrize(
    "constraint, expected",
    [
        (Constraint("safe", margin=0.1), [[0, 1, 0], [0, 0, 1]]),  # at least the mean .3, and .1
        (Constraint("safe", at_least=0.2), [[0, 1, 1], [0, 0, 1]]),
        (Constraint("safe", max_unsafe=0.3, unsafe_below=0.2), [[0, 1, 1], [0, 0, 1]]),
        (Constraint("safe", margin=0.1, clip=(0.0, 0.5)), [[0, 1, 0], [0, 0, 1]]),  # of .0 .5 .2 .0 .1 .5
        (
            Constraint("safe", margin=0.1, group="a"),
            [[0, 1, 0], [1, 1, 1]],
        ),  # the mean .3 of "a"
        (Constraint("safe", at_least=0.2, group="b"), [[1, 1, 1], [0, 0, 1]]),
    ],
)
def test_responses_that_meet_a_constraint_by_themselves(constraint, expected):
    raw = np.array([[-0.1, 0.8, 0.2], [-0.1, 0.1, 0.9]], np.float32)
    np.testing.assert_array_equal(meets(constraint, raw, ["a", "b"]), expected)
