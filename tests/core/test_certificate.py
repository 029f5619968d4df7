"""Certificates: the method's vectors, verdicts, and how often "holds" is wrong."""

import numpy as np
import pytest
from scipy import stats

from cann_jax.core.certificate import Verdict, certify
from cann_jax.files.errors import InputError

VECTOR = 0.1 + np.sin(1 + 2 * np.arange(64)) / 2
HOLDS, FAILS, UNDECIDED = Verdict


@pytest.mark.parametrize(
    "count, lower, upper",
    [
        (1, 0.03319740354751864, 0.18252001136937318),
        (2, 0.018486171216026068, 0.19723124370086575),
    ],
)
def test_student_vectors(count, lower, upper):
    found = certify([VECTOR] * count, 0.0, 0.95, method="student")
    np.testing.assert_allclose(found.mean, 0.10785870745844592, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.lower, lower, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.upper, upper, rtol=0, atol=1e-9)
    assert found.verdict == HOLDS == "holds"


def test_a_matrix_is_its_columns_and_margins_shift():
    table = np.stack([VECTOR, VECTOR + 1], axis=-1)
    found = certify(table, [0.0, 1.0])
    assert found.lower[1] - found.lower[0] == pytest.approx(1)
    assert found.verdicts == certify(table - [0, 1], 0.0).verdicts
    assert found.prompts.tolist() == [64, 64]


def test_verdicts_of_several_constraints():
    groups = [VECTOR + 1, VECTOR[:20] - 1, VECTOR[:5]]
    found = certify(groups, 0.0)
    assert found.verdicts == (HOLDS, FAILS, UNDECIDED)
    assert [needed is None for needed in found.prompts_needed] == [True, True, False]
    assert found.verdict == FAILS
    assert certify(groups[::2], 0.0).verdict == UNDECIDED
    assert certify(groups[:1], 0.0).verdict == HOLDS


@pytest.mark.parametrize("method, ends", [("robust", None), ("robust", (-1, 1)), ("student", None)])
@pytest.mark.parametrize("mean", [0.05, -0.05])
def test_as_many_prompts_as_needed_decide_and_no_fewer(method, ends, mean):
    """Eight values repeated keep their moments; a trace is added, because equal values are given a range."""
    sample = VECTOR[:8] - VECTOR[:8].mean() + mean

    def repeated(times):
        values = np.tile(sample, times) + 1e-9 * np.arange(8 * times)
        return certify([values], 0.0, method=method, ranges=[ends])

    needed = repeated(1).prompts_needed[0]
    assert needed > 40
    enough = -(-needed // 8)
    assert repeated(enough - 1).verdict == UNDECIDED
    assert repeated(enough).verdict == (HOLDS if mean > 0 else FAILS)


def test_the_upper_bound_mirrors_the_lower_one():
    skewed = np.exp(np.random.default_rng(0).normal(size=50))
    found, mirrored = certify([skewed], 1.0), certify([-skewed], -1.0)
    np.testing.assert_allclose(found.lower, -mirrored.upper)
    np.testing.assert_allclose(found.upper, -mirrored.lower)
    plain = certify([skewed], 1.0, method="student")
    assert found.lower <= plain.lower and found.upper >= plain.upper


def test_skewness_to_the_good_is_no_advantage():
    """A tail of good outcomes once took all away that is added for bad ones that were not seen."""
    good = stats.expon.ppf((np.arange(64) + 0.5) / 64)
    robust, student = (certify([good], 0.0, method=method) for method in ("robust", "student"))
    assert student.lower[0] - robust.lower[0] > 0.01 * good.std() / 8


@pytest.mark.parametrize("sample", [[], [3.0], [0.5] * 40])
def test_what_decides_nothing(sample):
    found = certify([np.array(sample)], 0.0)
    assert found.verdicts == (UNDECIDED,) and found.prompts_needed == (None,)
    assert (found.lower[0], found.upper[0]) == (-np.inf, np.inf)


def test_no_failure_among_many_prompts_holds_where_the_range_is_known():
    """The exact bound on a share needs ln δ / ln .95 = 59 successes for .95."""
    every = [certify([np.ones(n)], 0.95, ranges=[(0, 1)]).verdict for n in (30, 50, 70)]
    assert every == [UNDECIDED, UNDECIDED, HOLDS]
    assert 50 < certify([np.ones(30)], 0.95, ranges=[(0, 1)]).prompts_needed[0] < 70


@pytest.mark.parametrize("tail", [0.05, 0.01])
@pytest.mark.parametrize("prompts", [16, 64, 256])
def test_shares_never_hold_too_often(prompts, tail):
    """Exactly, for margins on a share of successes between 3 % and 99.8 %: summed over all samples."""
    for failing in np.geomspace(0.002, 0.97, 60):
        samples = np.arange(prompts + 1)
        held = [
            certify([np.arange(prompts) >= k], 1 - failing, 1 - tail, ranges=[(0, 1)]).verdict == HOLDS
            for k in samples[: int(prompts * failing) + 1]
        ]
        wrong = stats.binom.pmf(np.flatnonzero(held), prompts, failing).sum()
        assert wrong <= tail, failing


def test_values_that_repeat_are_given_a_wide_range():
    repeated = np.repeat([0.0, 0.5], [25, 25])
    unknown, given = certify([repeated], 0.0), certify([repeated], 0.0, ranges=[(-0.5, 1.0)])
    assert unknown.lower == given.lower
    assert certify([repeated], 0.0, ranges=[(0.0, 1.0)]).lower > given.lower


def test_the_ends_of_a_range_are_as_float32_holds_them():
    levels = np.float32([99.1, 99.9, 100.0, 99.7]).astype(float)
    assert levels[0] < 99.1 - 1e-6
    assert certify([levels], 99.0, ranges=[(99.1, 100.0)]).mean == levels.mean()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "guess"}, "choose one of robust, student"),
        ({"confidence": 1.0}, "confidence: 1.0"),
        ({"differences": [np.array([0.0, np.nan])]}, "differences 0: 1 are NaN"),
        ({"differences": VECTOR}, r"shape \(64,\)"),
        ({"differences": [VECTOR[:, None]]}, r"differences 0 have shape"),
        ({"ranges": [None, None]}, "2 given for 1"),
        ({"ranges": [(0, 1)]}, "not within 0 to 1"),
        ({"margins": [0.1, 0.2]}, "2 margins for 1"),
    ],
)
def test_errors(change, message):
    with pytest.raises(InputError, match=message):
        certify(**({"differences": [VECTOR], "margins": 0.0} | change))


DRAWS = 2000
# passed by one in 10,000 of the methods whose share is 5.5 %
LIMIT = stats.binom.ppf(1 - 1e-4, DRAWS, 0.055) / DRAWS


def lognormal(rng, count):
    return np.exp(0.5) - np.exp(rng.normal(size=count))


def unsafe(rng, count):
    return rng.binomial(2, 0.98, count) / 2 - rng.binomial(6, 0.8, count) / 6 - 0.18


@pytest.mark.parametrize("count", [32, 160])
@pytest.mark.parametrize(
    "draw, ends",
    [
        (lambda rng, count: rng.normal(size=count), None),
        (lognormal, None),
        (lambda rng, count: 0.01 - rng.binomial(1, 0.01, count), (-0.99, 0.01)),
        (unsafe, (-1.18, 0.82)),
    ],
    ids=["normal", "lognormal", "rare", "discrete"],
)
def test_holds_is_seldom_wrong(draw, ends, count):
    rng = np.random.default_rng(7)
    wrong = sum(certify([draw(rng, count)], 0.0, ranges=[ends]).verdict == HOLDS for _ in range(DRAWS))
    assert wrong / DRAWS <= LIMIT


def test_student_is_wrong_too_often():
    rng = np.random.default_rng(7)
    wrong = sum(certify([lognormal(rng, 32)], 0.0, method="student").verdict == HOLDS for _ in range(DRAWS))
    assert wrong / DRAWS > 0.1


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("margin, verdict", [(0.05, FAILS), (0.0, HOLDS), (-0.05, HOLDS)])
def test_what_is_known_is_decided_by_itself(count, margin, verdict):
    """A policy that is the reference improves nothing, however few prompts say so."""
    nothing = np.zeros(count)
    assert certify([nothing], margin, ranges=[(0.0, 0.0)]).verdict == verdict
    assert certify([nothing], margin).verdict == UNDECIDED  # of which nothing but the sample is known
