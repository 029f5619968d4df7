"""Arguments that do not fit are one-line errors, wherever they are given, and what fits is read alike."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.core.attainable import attainable, attained
from cann_jax.core.certificate import certify
from cann_jax.core.dual import dual_value, tilted_weights
from cann_jax.core.exploration.conflict import reachability
from cann_jax.core.exploration.curve import dual_curve, sensitivities
from cann_jax.core.exploration.finite_sample import correct_multipliers
from cann_jax.core.exploration.forecast import attainable_intervals, forecast
from cann_jax.core.exploration.resampling import bootstrap
from cann_jax.core.exploration.uncertainty import conservative_solution, cross_fit
from cann_jax.core.exploration.undecided import open_questions
from cann_jax.core.feasibility import largest_margin
from cann_jax.core.features import standardise_features
from cann_jax.core.implicit import implicit_scores
from cann_jax.core.log_ratios import calibration, reweighted
from cann_jax.core.losses import dpo_loss, ipo_loss, listwise_floor, listwise_loss, regression_loss
from cann_jax.core.prediction import Predicted, folds_of, predict_scores
from cann_jax.core.preference import preference_probability, pseudo_reward
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint
from cann_jax.core.rates import rate
from cann_jax.core.scores import Scores, check_scores
from cann_jax.core.solver.solve import solve_dual
from cann_jax.files.errors import InputError

RNG = np.random.default_rng(1)
R, SAFE = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 5))
G = SAFE[..., None]
SCORES = Scores(R, G, names=("safe",))
PROBLEM = prepare(R, {"safe": SAFE}, [Constraint("safe", margin=0.2)])
PREDICTED = Predicted(R, G, *np.ones((3, 2)))
FEATURES = RNG.normal(size=(20, 5, 2))
TABLE = PROBLEM.scores, PROBLEM.targets


def refused(match, call):
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


OF_SCORES = [
    lambda scores: solve_dual(scores, 0.2, 0.5),
    lambda scores: dual_curve(scores, 0.2, 0.5),
    lambda scores: reachability(scores, 0.2),
    lambda scores: sensitivities(scores, 0.2, 0.5, 0.3),
    lambda scores: correct_multipliers(scores, 0.2, 0.5, None),
    lambda scores: bootstrap(scores, PROBLEM.targets, 0.5, 0.3),
    lambda scores: conservative_solution(scores, PROBLEM.targets, 0.5),
    lambda scores: cross_fit(scores, PROBLEM.targets, 0.5),
    lambda scores: forecast(scores, PREDICTED, PROBLEM.targets, 0.3, 0.5),
    lambda scores: dual_value(0.3, scores, 0.2, 0.5),
    largest_margin,
    check_scores,
]


@pytest.mark.parametrize("call", OF_SCORES)
def test_scores_that_float32_cannot_hold_are_refused_and_not_solved(call):
    """At an offset of 1e7 λ* came out as .2366, and at 1e8 "feasible: no"; .2616 is right."""
    rounds = "^float32 rounds {} by up to .*; subtract a constant from it"
    refused(rounds.format("reward"), lambda: call(Scores(R + 1e7, G)))
    refused(rounds.format("safe"), lambda: call(dataclasses.replace(SCORES, constraints=G + 1e6)))
    whole = (1e9 + np.round(10 * R)).astype(np.int64)
    refused(rounds.format("reward"), lambda: call(Scores(whole, G)))
    refused(rounds.format("reward"), lambda: call(Scores(jnp.asarray(whole, jnp.int32), G)))
    refused(r"reward: \d+ scores are NaN or infinite in float32", lambda: call(Scores(1e39 * R, G)))


def test_scores_that_float32_holds_well_enough_are_solved():
    check_scores(Scores(R + 1e4, 1e-20 * G, mask=R < 2))
    check_scores(Scores(np.where(R < 1, R, 1e39), G + 1e5, mask=R < 1))
    late = np.concatenate([np.ones((64, 5)), R])  # those that differ come after those first looked at
    check_scores(Scores(late, late[..., None]))
    with jax.enable_x64(True):
        check_scores(Scores(R + 1e7, 1e39 * G))


@pytest.mark.parametrize("call", OF_SCORES)
def test_weights_and_masks_that_weigh_nothing_are_refused_everywhere(call):
    negative = np.append(-1.0, np.ones(19))
    refused(
        "prompt_weights must be finite, and none neg", lambda: call(Scores(R, G, prompt_weights=negative))
    )
    refused("prompt_weights are all 0", lambda: call(Scores(R, G, prompt_weights=np.zeros(20))))
    refused("prompt_weights sum to 2e.40", lambda: call(Scores(R, G, prompt_weights=np.full(20, 1e39))))
    refused("mask is False everywhere", lambda: call(Scores(R, G, mask=np.zeros((20, 5), bool))))


@pytest.mark.parametrize("call", [*OF_SCORES, lambda scores: tilted_weights(0.3, scores, 0.5)])
@pytest.mark.parametrize(
    ("table", "match"),
    [
        ((R, G[:, :4]), r"constraints have shape \(20, 4, 1\); give \(20, 5, 'm'\)"),
        ((R[:4], G), r"constraints have shape \(20, 5, 1\); give \(4, 5, 'm'\)"),
        ((R, SAFE), r"as reward; give \(20, 5, 1\): constraints\[..., None\]"),
        ((R, G[..., :0]), "constraints: none given"),
        ((R[0], G), r"reward has shape \(5,\)"),
        ((R[:0], G[:0]), "neither of them 0"),
        ((R[:, :0], G[:, :0]), "neither of them 0"),
        ((R, G, np.ones((20, 4), bool)), "mask has shape"),
        ((R, G, None, np.ones(19)), "prompt_weights has shape"),
        ((R, G, None, None, np.ones(2)), "baseline has shape"),
    ],
)
def test_shapes_of_scores_that_do_not_fit(call, table, match):
    refused(match, lambda: call(Scores(*table)))


def test_what_is_no_number_is_refused():
    for bad in (R.astype(complex), R.astype(str), np.ma.masked_greater(R, 1), [["a"]], [[1], [1, 2]]):
        refused("reward: ", lambda bad=bad: Scores(bad, G))
    for beta in ("0.1", [0.5], np.array([0.5]), None, 1j):
        refused("beta", lambda beta=beta: solve_dual(SCORES, 0.2, beta))
        refused("beta", lambda beta=beta: dual_value(0.3, SCORES, 0.2, beta))
    for tolerance in (-1.0, "x", [1e-5], np.nan):
        refused("tolerance: ", lambda it=tolerance: solve_dual(SCORES, 0.2, 0.5, tolerance=it))
    refused("margins: ", lambda: solve_dual(SCORES, "0.2", 0.5))


OF_MULTIPLIERS = [
    lambda found: bootstrap(*TABLE, 0.5, found),
    lambda found: forecast(SCORES, PREDICTED, PROBLEM.targets, found, 0.5),
    lambda found: sensitivities(SCORES, 0.2, 0.5, found),
    lambda found: conservative_solution(*TABLE, 0.5, initial=found),
    lambda found: solve_dual(SCORES, 0.2, 0.5, initial=found),
]


@pytest.mark.parametrize("call", OF_MULTIPLIERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_multipliers_that_are_none_are_refused(call, bad):
    """From [nan] came "feasible: yes", and from [inf] 200 rows of NaN of which none was infeasible."""
    refused(r"(multipliers|initial): \[.*\]; give finite numbers that are not below 0", lambda: call([bad]))


@pytest.mark.parametrize(
    "call",
    [
        *OF_MULTIPLIERS,
        lambda found: tilted_weights(found, SCORES, 0.5),
        lambda found: pseudo_reward(SCORES, found),
        lambda found: dual_value(found, SCORES, 0.2, 0.5),
        lambda found: reachability(SCORES, found),
        lambda found: correct_multipliers(SCORES, found, 0.5, None),
        lambda found: dual_curve(SCORES, [found, found], 0.5),
    ],
)
def test_there_is_one_number_for_each_constraint(call):
    refused(r"shape \(.*2,?\); give .*one for each of the 1 constraints", lambda: call(np.array([0.2, 9.0])))


@pytest.mark.parametrize("confidence", [95, 1.5, 0, np.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda level: certify(G[:, 0], 0.1, level),
        lambda level: conservative_solution(*TABLE, 0.5, level),
        lambda level: forecast(SCORES, PREDICTED, PROBLEM.targets, 0.3, 0.5, level),
        lambda level: open_questions(PROBLEM, None, np.ones(1), 0.5, level),
        lambda level: rate(np.ones(3), level),
    ],
)
def test_a_confidence_is_between_0_and_1(call, confidence):
    refused(f"confidence: {confidence}; give a number between 0 and 1", lambda: call(confidence))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda margin: solve_dual(SCORES, margin, 0.5),
        lambda margin: dual_curve(SCORES, margin, 0.5),
        lambda margin: dual_curve(SCORES, [[0.1], [margin]], 0.5),
        lambda margin: reachability(SCORES, margin),
        lambda margin: certify(G[:, 0], margin),
        lambda margin: dual_value(0.3, SCORES, margin, 0.5),
    ],
)
def test_margins_are_finite(call, bad):
    refused("margins: .*; give finite numbers", lambda: call(bad))


def test_margins_by_name_wherever_scores_have_names():
    named, plain = {"safe": 0.2}, [0.2]
    found = dual_curve(SCORES, named, [0.5, 0.6])
    np.testing.assert_array_equal(found.multipliers, dual_curve(SCORES, plain, [0.5, 0.6]).multipliers)
    assert reachability(SCORES, named).scale == reachability(SCORES, plain).scale
    assert dual_value([0.3], SCORES, named, 0.5) == dual_value(np.array([0.3]), SCORES, np.array([0.2]), 0.5)
    refused("given for harm; the constraints are safe", lambda: reachability(SCORES, {"harm": 0.2}))
    refused("each has to be one number", lambda: dual_curve(SCORES, {"safe": [0.1, 0.2]}, 0.5))


def test_points_of_a_curve():
    """For one constraint an array of margins is a curve; it was an error of broadcasting."""
    margins = np.linspace(0, 0.5, 3)
    found = dual_curve(SCORES, margins, 0.5)
    np.testing.assert_array_equal(found.multipliers, dual_curve(SCORES, margins[:, None], 0.5).multipliers)
    two = Scores(R, np.concatenate([G, -G], axis=-1))
    refused(
        r"margins of shape \(3,\); give \(points, 2\), or one for each", lambda: dual_curve(two, margins, 1)
    )
    for betas in ([0.5, 0.6], [[0.5]], []):
        refused("give as many β as points, or one", lambda given=betas: dual_curve(SCORES, margins, given))


def test_a_scalar_is_that_of_the_one_constraint_and_lists_are_arrays():
    at = np.float32([0.3])
    np.testing.assert_array_equal(pseudo_reward(SCORES, 0.3), pseudo_reward(SCORES, at))
    np.testing.assert_array_equal(tilted_weights(0.3, SCORES, 0.5), tilted_weights(at, SCORES, 0.5))
    few = (bootstrap(*TABLE, 0.5, given, resamples=2) for given in (0.3, at))
    np.testing.assert_array_equal(*(found.multipliers for found in few))
    pair, label = ([1.0, 2.0], [0.5, -1.0]), [1, 0]
    for loss in (dpo_loss, ipo_loss, regression_loss):
        np.testing.assert_array_equal(loss(*pair, label, 0.5), loss(*np.array([*pair, label], float), 0.5))
    for function in (listwise_loss, calibration):
        more = (0.5,) if function is listwise_loss else ()
        np.testing.assert_array_equal(function(*pair, *more), function(*np.array(pair), *more))
    np.testing.assert_array_equal(listwise_floor([1.0, 2.0], 0.5), listwise_floor(np.array([1.0, 2.0]), 0.5))
    np.testing.assert_array_equal(preference_probability(*pair), preference_probability(*np.array(pair)))
    lists = implicit_scores(R.tolist(), SAFE.tolist(), (R + SAFE).tolist(), 0.5)
    np.testing.assert_array_equal(lists.constraints, implicit_scores(R, SAFE, R + SAFE, 0.5).constraints)
    np.testing.assert_array_equal(reweighted(R.tolist(), SCORES).kl, reweighted(R, SCORES).kl)
    assert isinstance(Scores(R.tolist(), G.tolist(), mask=(R < 1).tolist()).mask, np.ndarray)


HOSTED = {
    "certify": lambda x: certify(x, 0.1),
    "prepare": lambda x: prepare(x, {"safe": x}, [Constraint("safe", margin=0.2)]),
    "check_scores": lambda x: check_scores(Scores(x, x[..., None])),
    "bootstrap": lambda x: bootstrap(Scores(x, x[..., None]), PROBLEM.targets, 0.5, 0.3),
    "dual_curve": lambda x: dual_curve(Scores(x, x[..., None]), 0.2, 0.5),
    "reachability": lambda x: reachability(Scores(x, x[..., None]), 0.2),
    "cross_fit": lambda x: cross_fit(Scores(x, x[..., None]), PROBLEM.targets, 0.5),
    "conservative_solution": lambda x: conservative_solution(Scores(x, x[..., None]), PROBLEM.targets, 0.5),
    "correct_multipliers": lambda x: correct_multipliers(Scores(x, x[..., None]), 0.2, 0.5, None),
    "standardise_features": lambda x: standardise_features(x[..., None]),
    "predict_scores": lambda x: predict_scores(x[..., None], SCORES, folds_of(20, 2, 0)),
    "forecast": lambda x: forecast(Scores(x, x[..., None]), PREDICTED, PROBLEM.targets, 0.3, 0.5),
    "attainable_intervals": lambda x: attainable_intervals(
        Scores(x, x[..., None]), None, PROBLEM.targets, 0.5
    ),
}


@pytest.mark.parametrize("name", HOSTED)
def test_what_runs_on_the_host_says_so_inside_a_transformation(name):
    refused(f"^{name}: it runs on the host", lambda: jax.jit(HOSTED[name])(R))
    refused(f"^{name}: it runs on the host", lambda: jax.vmap(HOSTED[name])(R[None]))


def test_all_else_goes_on_inside_a_transformation():
    """Also where the numbers themselves would be refused: nothing looks at them."""

    @jax.jit
    def inside(reward, found):
        scores = Scores(reward, G)
        values = dual_value(found, scores, found, 0.5), tilted_weights(found, scores, 0.5)
        slopes = sensitivities(scores, found, 0.5, found)
        return *values, pseudo_reward(scores, [found]), largest_margin(scores), *slopes

    leaves = jax.tree.leaves(inside(jnp.asarray(R), jnp.float32(0.3)))
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert np.isnan(inside(jnp.asarray(R), jnp.float32(np.nan))[0])
    slope = jax.grad(lambda at: dual_value(at, SCORES, 0.2, 0.5))(0.3)
    np.testing.assert_allclose(slope, jax.grad(dual_value)(jnp.array([0.3]), SCORES, 0.2, 0.5)[0])


@pytest.mark.parametrize("resamples", [0, -1])
def test_there_is_a_resample(resamples):
    refused("resamples: .*; give 1 at least", lambda: bootstrap(*TABLE, 0.5, 0.3, resamples=resamples))
    refused("resamples: ", lambda: attainable_intervals(SCORES, None, PROBLEM.targets, 0.5, resamples))


def test_predictions_and_names_are_those_of_the_scores():
    fewer = Scores(R[:9], G[:9])
    refused("predicted: constraints of shape", lambda: forecast(fewer, PREDICTED, PROBLEM.targets, 0.3, 0.5))
    refused("predicted: constraints of shape", lambda: attained(fewer, PREDICTED, 0.3, 0.5))
    refused(r"give \(20, 5, 1\): constraints", lambda: check_scores(Scores(R, SAFE, names=["safe"])))
    refused("a name of its own", lambda: Scores(R, np.concatenate([G, G], axis=-1), names=["safe", "safe"]))


def test_targets_are_those_of_the_scores():
    refused("targets: a ndarray; give", lambda: bootstrap(SCORES, np.array([0.2]), 0.5, 0.3))
    two = Scores(R, np.concatenate([G, -G], axis=-1))
    refused("targets: 1 for 2 constraints", lambda: cross_fit(two, PROBLEM.targets, 0.5))


def test_a_certificate_is_of_some_constraint():
    refused("differences: of no constraint", lambda: certify([], 0.1))
    refused("differences: of no constraint", lambda: certify(np.zeros((5, 0)), 0.1))
    refused("margins: ", lambda: certify(G[:, 0], {"safe": 0.1}))


def test_what_a_problem_is_prepared_of():
    goals = [Constraint("safe", margin=0.2, group="a"), Constraint("kind", margin=0.1)]
    each = {"safe": SAFE, "kind": SAFE[:3]}
    group = np.arange(20) < 8
    refused(r"scores kind have shape \(3, 5\); give \(20, 5\)", lambda: prepare(R, each, goals, {"a": group}))
    refused("give a list of Constraint", lambda: prepare(R, each, goals[0], {"a": group}))
    refused("give a list of Constraint", lambda: prepare(R, each, [{"name": "safe"}], {"a": group}))
    refused("group a holds other than True", lambda: prepare(R, each, goals[:1], {"a": np.arange(20)}))
    refused(
        "reward: a masked array", lambda: prepare(np.ma.masked_greater(R, 1), each, goals[:1], {"a": group})
    )
    listed = prepare(R.tolist(), {"safe": SAFE.tolist()}, goals[:1], {"a": group.tolist()})
    np.testing.assert_array_equal(listed.margins, prepare(R, each, goals[:1], {"a": 1 * group}).margins)


def test_features_and_the_strength_of_their_fit():
    folds = folds_of(20, 2, 0)
    refused(r"features have shape \(20, 5\)", lambda: standardise_features(FEATURES[..., 0]))
    refused(r"mask has shape \(20, 4\)", lambda: standardise_features(FEATURES, np.ones((20, 4), bool)))
    for strength in (-1.0, np.nan):
        refused("strength: ", lambda it=strength: predict_scores(FEATURES, SCORES, folds, strength=it))
    listed, plain = (standardise_features(each).spread for each in (FEATURES.tolist(), FEATURES))
    np.testing.assert_array_equal(listed, plain)


def test_no_multiplier_is_below_0():
    """Two opposite constraints: L-BFGS-B kept the bound of one to rounding only, and gave −5e-12."""
    found = solve_dual(Scores(R, np.concatenate([G, -G], axis=-1)), [0.2, -0.2], 0.5)
    assert found.converged and np.all(found.multipliers >= 0)


def test_rounding_below_0_is_a_start_like_0():
    """λ of an earlier solver was -5e-12."""
    begun = solve_dual(SCORES, 0.2, 0.5, initial=[-1e-9])
    np.testing.assert_allclose(begun.multipliers, solve_dual(SCORES, 0.2, 0.5).multipliers, rtol=1e-4)


def test_what_is_pointwise_maps_over_prompts():
    for call in (lambda s: pseudo_reward(s, 0.3), lambda s: tilted_weights(0.3, s, 0.5)):
        np.testing.assert_allclose(jax.vmap(call)(SCORES), call(SCORES), rtol=1e-5)


def test_attainable_maps_over_margins():
    folds = folds_of(20, 4, 0)
    solve = lambda margin: attainable(FEATURES, SCORES, margin, 0.5, folds).multipliers  # noqa: E731
    found = jax.vmap(solve)(jnp.array([[0.01], [-0.5]]))
    np.testing.assert_allclose(found[1], solve([-0.5]), atol=1e-5)


def test_a_constraint_that_is_constant_up_to_rounding_is_solved_as_one():
    same = np.full((20, 5), 0.2)
    same[0, 0] = np.nextafter(0.2, 1)
    found = solve_dual(Scores(R, np.stack([SAFE, same], -1)), [0.2, -1.0], 0.5).multipliers
    np.testing.assert_allclose(found, [*solve_dual(SCORES, 0.2, 0.5).multipliers, 0], atol=1e-4)
