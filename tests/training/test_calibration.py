"""Accuracy and calibration by hand."""

import numpy as np
import pytest

from cann_jax.training.calibration import BINS, accuracy, draw_reliability, reliability, sign_accuracy


def test_accuracy_counts_a_tie_as_half():
    found = accuracy(np.array([1.0, 2.0, -1.0, 0.0]), 0.95)
    assert (found.pairs, found.accuracy) == (4, 0.625)


def test_wilsons_interval():
    """50 of 100 at 95 %: [0.4038, 0.5962]; 10 of 10: the lower end is 1/(1 + z²/10)."""
    found = accuracy(np.repeat([1.0, -1.0], 50), 0.95)
    assert found.interval == pytest.approx((0.40383, 0.59617), abs=1e-5)
    low, high = accuracy(np.ones(10), 0.95).interval
    assert low == pytest.approx(1 / (1 + 1.959964**2 / 10), abs=1e-5) and high == pytest.approx(1)


def test_pairs_of_one_prompt_count_as_one():
    prompts = np.repeat(np.arange(50), 20)
    together = accuracy(np.repeat(np.where(np.arange(50) < 35, 1.0, -1.0), 20), 0.95, list(prompts))
    alone = accuracy(np.where(np.arange(50) < 35, 1.0, -1.0), 0.95)
    assert together.pairs == 1000 and together.interval == pytest.approx(alone.interval)


def test_a_constant_cost_has_the_majoritys_share():
    """85 of 100 responses are safe: a cost below zero for all of them is right for 85."""
    safe, prompts = np.repeat([1, 0], [85, 15]), range(100)
    found = sign_accuracy(np.full(100, -0.3), safe, 0.95, prompts)
    assert (found.responses, found.accuracy, found.majority, found.majority_share) == (
        100,
        0.85,
        "safe",
        0.85,
    )
    swapped = sign_accuracy(np.where(safe == 1, -1.0, 1.0), 1 - safe, 0.95, prompts)
    assert (swapped.accuracy, swapped.majority, swapped.majority_share) == (0, "unsafe", 0.85)
    assert sign_accuracy(np.zeros(100), safe, 0.95, prompts).accuracy == 0.5


def test_reliability_of_a_calibrated_and_of_a_boastful_model():
    random = np.random.default_rng(0)
    differences = np.abs(random.normal(0, 2, 20000))
    right = random.random(20000) < 1 / (1 + np.exp(-differences))
    learnt = np.where(right, differences, -differences)
    calibrated = reliability(learnt)
    assert calibrated.error < 0.01 and calibrated.counts.sum() == 20000 and len(calibrated.counts) == BINS
    np.testing.assert_allclose(calibrated.confidence, calibrated.accuracy, atol=0.03)
    boastful = reliability(10 * learnt)
    assert boastful.error > 0.15 and boastful.log_loss > calibrated.log_loss
    assert reliability(np.zeros(5)).log_loss == pytest.approx(np.log(2))


def test_empty_bins_are_nan_and_drawn_around(tmp_path):
    found = reliability(np.array([9.0, 9.0, -9.0]))
    assert found.counts.tolist() == [0] * 9 + [3] and np.isnan(found.accuracy[:9]).all()
    draw_reliability(tmp_path / "reliability.png", found)
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
