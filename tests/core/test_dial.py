"""Sums of adapters whose log-ratios are known: one direction, moved ones, and what tries say of others."""

import numpy as np
import pytest

from cann_jax.core.dial import RAISED, Dial
from cann_jax.core.scale import Try, choose_scale, continued, shape
from cann_jax.core.scores import Scores

SIZE = 0.4
START = np.array([1.0, 0.1, 0.1])


@pytest.fixture(scope="module")
def dial() -> Dial:
    """Three adapters, Gaussian and independent; the second tells the first constraint, the third the second.

    The reward's works against the first constraint.
    """
    random = np.random.default_rng(0)
    ratios = (random.normal(size=(500, 8, 3)) * SIZE).astype(np.float32)
    constraints = np.stack([ratios[..., 1] - 0.3 * ratios[..., 0], ratios[..., 2]], axis=-1)
    return Dial(ratios, Scores(ratios[..., 0], constraints), 4.0)


def test_one_adapter_is_scaled_as_it_always_was(dial):
    one = Dial(dial.log_ratios[..., 1:2], dial.scores, 4.0)
    tries = [Try(1.0, np.array([0.1, 0.0]), np.array([0.01, 0.01]), 0.1)]
    for seen, targets in (([], [0.08, -1.0]), (tries, [0.08, -1.0]), ([], [9.0, 9.0])):
        found = one.choose(np.ones(1), seen, np.array(targets), 3.0)
        known = shape(dial.log_ratios[..., 1], dial.scores, 4.0)
        expected = choose_scale(known, seen, np.array(targets), 3.0)
        assert (found.scale.scale, found.scale.met) == (expected.scale, expected.met)
        assert found.direction.tolist() == [1.0]


def test_a_direction_that_meets_the_targets_stays(dial):
    """Along (1, 1, 1), s gives the constraints .7·s·.16 and s·.16 to first order."""
    found = dial.choose(np.ones(3), [], np.array([0.056, 0.05]), 3.0)
    assert found.scale.met and found.direction.tolist() == [1, 1, 1]
    assert found.scale.scale == pytest.approx(0.5, rel=0.15)
    np.testing.assert_allclose(found.coefficients, found.scale.scale * np.ones(3))


@pytest.mark.parametrize("targets, moved", [([0.1, -1.0], [1]), ([-1.0, 0.1], [2]), ([0.08, 0.08], [1, 2])])
def test_the_constraints_that_fall_short_are_raised(dial, targets, moved):
    """Along the start neither is met within the KL limit; the others' coefficients stay what they were."""
    limit = 0.5
    plain = choose_scale(dial.along(START), [], np.array(targets), limit)
    assert not plain.met
    found = dial.choose(START, [], np.array(targets), limit)
    assert found.scale.met and found.scale.kl <= limit
    assert np.all(found.scale.improvement >= targets)
    assert [index for index in range(3) if found.direction[index] != START[index]] == moved
    # The last step was needed: one less is not enough.
    before = np.where(np.isin(range(3), moved), found.direction / RAISED, found.direction)
    assert not choose_scale(dial.along(before), [], np.array(targets), limit).met


def test_a_multiplier_of_nothing_can_be_raised(dial):
    found = dial.choose(np.array([1.0, 0.0, 0.0]), [], np.array([0.05, -1.0]), 3.0)
    assert found.scale.met and found.direction[1] > 0 == found.direction[2]


def test_out_of_reach_the_nearest_is_kept(dial):
    found = dial.choose(START, [], np.array([5.0, -1.0]), 0.5)
    assert not found.scale.met and found.scale.kl <= 0.5
    plain = choose_scale(dial.along(START), [], np.array([5.0, -1.0]), 0.5)
    assert found.scale.improvement[0] > plain.improvement[0]


def test_a_try_corrects_other_directions_too(dial):
    """A policy gave .03 less than the weights told; so much less is expected at the same KL elsewhere."""
    targets, limit = np.array([0.1, -1.0]), 0.5
    told = dial.choose(START, [], targets, limit)
    known = continued(dial.along(START))
    near = int(np.argmin(np.abs(known.kl - told.scale.kl)))
    given = known.improvements[near] - [0.03, 0]
    seen = Try(float(known.scales[near]), given, np.full(2, 0.01), float(known.kl[near]), START)
    found = dial.choose(START, [seen], targets, limit)
    there = continued(dial.along(found.direction))
    assert found.scale.met
    assert np.interp(found.scale.scale, there.scales, there.improvements[:, 0]) > 0.12
    carried = dial._carried(seen, told.direction)
    assert carried.scale == pytest.approx(told.scale.scale, rel=0.02)
    np.testing.assert_allclose(carried.improvement, told.scale.improvement - [0.03, 0], atol=0.002)
