"""What a sample leaves open: the numbers of prompts and responses that are said to settle it do so."""

import numpy as np
import pytest
from scipy.stats import t

from cann_jax.core.exploration.conflict import reachability
from cann_jax.core.exploration.undecided import REACH, open_questions
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint
from cann_jax.core.solver.solve import solve_dual

BETA, DRAWS = 1.0, 40


def asked(reward, scores, constraints, **table):
    """The open questions of a table, by the constraint's index."""
    problem = prepare(reward.astype(np.float32), scores, constraints, **table)
    solution = solve_dual(problem.scores, problem.margins, BETA, "newton")
    one = len(constraints) == 1
    tightest = np.ones(1) if one else reachability(problem.scores, problem.margins).combination
    found = open_questions(problem, solution, tightest, BETA, 0.95)
    return {question.constraint: question for question in found}


def tilted_gain(reward, values):
    """Each prompt's improvement under the reward's own tilt, in float64."""
    policy = np.exp(reward / BETA)
    policy /= policy.sum(-1, keepdims=True)
    return np.sum(policy * values, -1) - values.mean(-1)


def correlated(seed, prompts=60, responses=8):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(prompts, responses))
    return reward, 0.3 * reward + rng.normal(size=reward.shape)


@pytest.mark.parametrize(("what", "heavy"), [(0, 8), (REACH, 1)])
def test_so_many_prompts_settle_it_in_half_of_the_draws(what, heavy):
    """Prompts like a table's are drawn from it, so that its estimate is right; a fifth may weigh 8 times."""
    reward, values = correlated(0)
    weights = np.where(np.arange(60) % 5 == 0, heavy, 1).astype(np.float32)
    terms = tilted_gain(reward, values) if what == 0 else (values - values.mean(-1, keepdims=True)).max(-1)
    share = weights.astype(float) / weights.sum()
    mean = share @ terms
    error = np.sqrt(share**2 @ (terms - mean) ** 2)
    margin = mean - error
    constraint = Constraint("g", margin=float(margin))
    question = asked(reward, {"g": values}, [constraint], prompt_weights=weights)[what]
    assert question.estimate == pytest.approx(mean, rel=1e-5)
    assert question.asked == pytest.approx(margin, rel=1e-5)
    count = 1 / np.sum(share**2)  # 60, or 25 where a fifth weighs 8 times
    reach = t.ppf(0.975, count - 1) * error * np.sqrt(count / (count - 1))
    np.testing.assert_allclose([question.lower, question.upper], [mean - reach, mean + reach], rtol=1e-4)
    rng = np.random.default_rng(1)
    for share, expected in ((1, (0.3, 0.7)), (4, (0.9, 1.0))):
        count, settled = len(terms) + int(share * question.more_prompts), 0
        for _ in range(DRAWS):
            drawn = rng.integers(len(terms), size=count)
            table = {"g": values[drawn]}
            settled += what not in asked(reward[drawn], table, [constraint], prompt_weights=weights[drawn])
        assert expected[0] <= settled / DRAWS <= expected[1]


def level_table(rng, prompts, responses):
    """Scores whose mean is 0, mostly by the draw of responses, and a reward that tells nothing of them."""
    values = 0.1 * rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, responses))
    return rng.normal(size=values.shape), values


def test_so_many_responses_settle_it_in_half_of_the_draws():
    """On average: single tables of 60 prompts told 11 to 221, which settled it in .15 to .82 of the draws."""
    prompts, responses, tables, draws = 60, 8, 24, 8
    deviation = np.sqrt((0.01 + 1.25 / responses) / prompts)
    constraint = Constraint("g", at_least=float(-deviation))
    rng = np.random.default_rng(2)
    told = settled = 0
    while told < tables:
        reward, values = level_table(rng, prompts, responses)
        first = asked(reward, {"g": values}, [constraint]).get(0)
        if first is None:
            continue
        question = asked(reward, {"g": values - first.estimate}, [constraint]).get(0)  # its mean is right now
        if question is None or question.more_responses is None:
            continue
        told += 1
        for _ in range(draws):
            drawn = level_table(rng, prompts, responses + question.more_responses)
            # in tables of one shape, as each shape compiles
            wide = [np.pad(x, ((0, 0), (0, -x.shape[1] % 256))) for x in drawn]
            mask = np.broadcast_to(np.arange(wide[0].shape[1]) < drawn[0].shape[1], wide[0].shape)
            settled += 0 not in asked(wide[0], {"g": wide[1]}, [constraint], mask=mask)
    assert 0.3 <= settled / (tables * draws) <= 0.7


def test_responses_are_not_the_remedy_where_prompts_differ():
    reward, values = correlated(3)
    values = values + 5 * np.random.default_rng(4).normal(size=(len(values), 1))
    level = values.mean(-1).mean() - values.mean(-1).std() / np.sqrt(len(values))
    question = asked(reward, {"g": values}, [Constraint("g", at_least=float(level))])[0]
    assert question.more_prompts and question.more_responses is None


def test_what_is_settled_is_no_question():
    reward, values = correlated(5)
    for margin in (-2.0, 1.0, 5.0):  # met by far, binding by far, out of reach by far
        assert asked(reward, {"g": values}, [Constraint("g", margin=margin)]) == {}


def test_on_the_very_edge_no_number_of_prompts_settles_it():
    reward, values = np.zeros((8, 4)), np.tile([0.0, 0, 0, 4], (8, 1))
    values[::2] *= 2
    question = asked(reward + np.arange(4), {"g": values}, [Constraint("g", margin=4.5)])[REACH]
    assert question.estimate == pytest.approx(4.5) and question.more_prompts is None


def test_a_group_is_asked_about_on_its_own_prompts():
    reward, values = correlated(6, prompts=80)
    inside = np.arange(80) % 4 == 0
    terms = tilted_gain(reward, values)[inside]
    margin = float(terms.mean() - 0.5 * terms.std() / np.sqrt(20))
    question = asked(
        reward, {"g": values}, [Constraint("g", margin=margin, group="a")], groups={"a": inside}
    )[0]
    assert question.estimate == pytest.approx(terms.mean(), rel=1e-5)
    width = (question.upper - question.lower) / (terms.std(ddof=1) / np.sqrt(20))
    assert width == pytest.approx(2 * t.ppf(0.975, 19), rel=0.001)  # of the group's own prompts
    assert question.more_prompts > 80


def test_margins_that_are_close_to_a_conflict():
    reward, values = correlated(7)
    scores = {"g": values, "minus": -values + 0.5 * reward}
    goals = [Constraint("g", margin=0.5), Constraint("minus", margin=0.5)]
    problem = prepare(reward, scores, goals)
    scale = 0.97 * reachability(problem.scores, problem.margins).scale
    found = asked(reward, scores, [Constraint(c.name, margin=0.5 * scale) for c in goals])[REACH]
    assert found.estimate == pytest.approx(1 / 0.97, rel=1e-3) and found.asked == 1
    assert found.lower < 1 < found.upper and found.more_prompts > 0


def test_a_constraint_that_another_one_meets_needs_no_multiplier():
    """Its improvement without it is that of the problem of the other one alone."""
    reward, values = correlated(8)
    scores = {"g": values, "twin": values + 0.3 * correlated(9)[1]}
    alone = solve_dual(prepare(reward, scores, [Constraint("twin", margin=0.8)]).scores, 0.8, BETA, "newton")
    tilt = reward + float(alone.multipliers[0]) * scores["twin"]
    expected = tilted_gain(tilt, values).mean()
    goals = [Constraint("g", margin=float(expected + 0.02)), Constraint("twin", margin=0.8)]
    assert asked(reward, scores, goals)[0].estimate == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [3, 1])
def test_a_small_group_is_as_unsure_as_it_is_small(size):
    """Three of 60 prompts give Student's interval of three; one gives none, whatever the others say."""
    reward, values = correlated(10)
    inside = np.arange(60) < size
    terms = tilted_gain(reward, values)[inside]
    goal = Constraint("g", margin=float(terms.mean() - 0.01), group="a")
    question = asked(reward, {"g": values}, [goal], groups={"a": inside})[0]
    reach = t.ppf(0.975, 2) * terms.std() / np.sqrt(2) if size == 3 else np.inf
    np.testing.assert_allclose(
        [question.lower, question.upper], [terms.mean() - reach, terms.mean() + reach], rtol=1e-4
    )
    if size == 3:  # with 19 others for each
        assert question.more_prompts % 20 == 0
    else:
        assert question.more_prompts is None


def test_a_constant_reward_leaves_no_doubt_that_a_multiplier_is_needed():
    """Without it the policy is the reference, which was "undecided": its gain of 0 has no error."""
    _, values = correlated(11)
    reward = np.repeat(np.arange(60.0)[:, None], 8, axis=1)  # one value a prompt
    assert not asked(reward, {"g": values}, [Constraint("g", margin=0.1)])
    inside = np.arange(60) < 20
    elsewhere = np.where(inside[:, None], reward, correlated(12)[0])
    goal = Constraint("g", margin=0.1, group="a")
    assert not asked(elsewhere, {"g": values}, [goal], groups={"a": inside})
    # What it already has of a level is as uncertain as ever, and so is what another multiplier does for it.
    assert 0 in asked(reward, {"g": values}, [Constraint("g", at_least=float(values.mean() + 0.01))])
    scores = {"g": values, "twin": values + 0.3 * correlated(9)[1]}
    alone = solve_dual(prepare(reward, scores, [Constraint("twin", margin=0.8)]).scores, 0.8, BETA, "newton")
    gain = tilted_gain(float(alone.multipliers[0]) * scores["twin"], values).mean()
    goals = [Constraint("g", margin=float(gain + 0.01)), Constraint("twin", margin=0.8)]
    assert 0 in asked(reward, scores, goals)
