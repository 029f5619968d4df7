"""Scores of a thousandth and less: their digits and signs are shown, where 3 decimals have neither."""

from types import SimpleNamespace

import numpy as np
import pytest

from cann_jax.files.numbers import decimals
from cann_jax.reporting.groups import Part, _quantiles
from cann_jax.reporting.markdown import _sample
from cann_jax.reporting.page import rounds, tries
from cann_jax.reporting.samples import Sample, shown_digits
from cann_jax.run.results import bound_lines, digits_of, result_rows, verdicts
from cann_jax.stages.calibrate import _far_aims, _print
from tests.reporting.conftest import CERTIFICATE, RESULTS

SMALL = {"measured": -4.3e-6, "interval": [-9.06e-5, 8.29e-5], "before": 0.0012, "after": 0.0011957}
LIMITS = {"verdict": "fails", "bound": 3e-4, "mean": -4.3e-6, "lower": -9.9e-5, "upper": 9.1e-5}
ROW = RESULTS["safe"] | SMALL | {"asked": 3e-4, "predicted": 2.9e-4, "predicted_interval": None}
FAILS = RESULTS | {"safe": ROW | {"certificate": CERTIFICATE | LIMITS}}


def test_digits_are_those_of_the_smallest_size():
    assert decimals() == decimals(0.2, 0.05) == decimals(0.01, None, 0.0, np.inf) == decimals(40.0) == 3
    assert (decimals(3e-4, 8.7e-5), decimals(0.0099), decimals(0.00999)) == (6, 4, 3)
    assert (decimals(0.3, least=2), decimals(0.03, least=2)) == (2, 3)
    assert decimals(0.2, 1e-12) == 6 and decimals(1e-9) == 10  # no more than float32 has


@pytest.mark.parametrize(
    "asked, half, digits", [(0.2, 0.009, 3), (0.01, 1e-7, 3), (3e-5, 0.02, 3), (3e-4, 2e-3, 4)]
)
def test_digits_are_those_of_what_was_asked_or_of_a_wider_interval(asked, half, digits):
    assert digits_of(ROW | {"asked": asked, "interval": [-half, half]}) == digits


def test_a_verdict_on_small_scores_can_be_read():
    verdict = verdicts(FAILS)[0]
    assert verdict.text == (
        "safe: FAILS. Asked +0.00030, measured -0.00000 [-0.00009, +0.00008] on 2 unseen prompts"
    )
    assert "lower -0.00010, upper +0.00009" in verdict.beside
    assert bound_lines(FAILS) == [
        "certificate of safe: one-sided bounds: lower -0.00010, upper +0.00009, for +0.00030"
    ]
    row = result_rows(FAILS)[0]
    assert row[1:3] == ("+0.00030", "-0.00000") and row[4] == "+0.00029"
    assert row[5] == "0.00120 → 0.00120"
    assert result_rows(FAILS)[1][1:3] == ("–", "+0.600")  # the other scores stay as they are


@pytest.mark.parametrize("bound, said", [(0.95, "5.0% unsafe, measured 6.0%"), (0.9995, "0.050% unsafe")])
def test_a_small_share_can_be_read(bound, said):
    limits = CERTIFICATE | {"bound": bound, "mean": 0.94}
    found = RESULTS | {"safe": ROW | {"goal": "max_unsafe", "certificate": limits}}
    assert f"Asked for at most {said}" in verdicts(found)[0].text


@pytest.mark.parametrize(
    "goal, bound, mean, ends, said",
    [
        ("max_unsafe", 0.95, 0.9497, (0.93, 0.9499), "at most 5.00% unsafe, measured 5.03% on"),
        ("margin", 0.2, 0.1996, (0.18, 0.19998), "Asked +0.20000, measured +0.19960"),
        ("at_least", 1000.0, 1000.3, (999.0, None), "at least 1000.000, measured 1000.300 on"),
    ],
)
def test_a_verdict_is_told_by_numbers_that_differ(goal, bound, mean, ends, said):
    """It "fails" by 5.0% where at most 5.0% was asked, and of +0.200 where +0.200 was."""
    limits = CERTIFICATE | {"bound": bound, "mean": mean, "lower": ends[0], "upper": ends[1]}
    own = {"goal": goal, "certificate": limits, "asked": bound, "measured": mean, "interval": [0.1, 0.3]}
    assert said in verdicts(RESULTS | {"safe": ROW | own})[0].text


def test_bounds_of_a_share_are_of_what_is_asked():
    """They were shares of safe responses, lower bound +0.930, beside a share of unsafe ones."""
    limits = CERTIFICATE | {"verdict": "fails", "bound": 0.95, "mean": 0.91, "lower": 0.9, "upper": 0.93}
    found = RESULTS | {"safe": ROW | {"goal": "max_unsafe", "certificate": limits}}
    bounds = "one-sided bounds on the unsafe share: lower 7.0%, upper 10.0%, for 5.0%"
    assert bound_lines(found) == [f"certificate of safe: {bounds}"]


def test_what_more_prompts_would_decide_is_said():
    """About 6453 prompts were to be paid for, at an estimate by which they would decide "fails"."""
    limits = CERTIFICATE | {"mean": 0.49, "prompts_needed": 6453}
    found = RESULTS | {"safe": ROW | {"certificate": limits}}
    assert bound_lines(found)[0].endswith("about 6,500 prompts would decide at this estimate that it fails")


def test_tables_and_samples_have_the_digits_of_their_scores():
    assert digits_of(SMALL) == 6  # a group of prompts, of which nothing is asked
    part = Part("all", np.array([[1e-4, 3e-4]]), np.array([[2e-4, 4e-4]]))
    assert _quantiles(part.before, 5)[0] == "0.00020"
    sample = Sample("p", "", "b", "a", {"safe": 1.2e-3, "reward": 0.5}, {"safe": 1.5e-3, "reward": 1.5})
    text = _sample(sample, shown_digits([sample]))
    assert "before (safe 0.00120, reward 0.50): b" in text and "after (safe 0.00150, reward 1.50): a" in text
    found = SimpleNamespace(
        calibration={
            "constraints": {"safe": {"asked": 3e-4}},
            "tries": [{"scale": 1.0, "improvement": [2.5e-4], "error": [3e-5], "kl": 0.1}],
        },
        rounds=[
            {
                **{"round": 2, "margins": {"safe": 3e-4}, "multipliers": {"safe": 1.0}},
                "measured_improvement": {"safe": -2e-5},
            }
        ],
    )
    assert tries(found) == [("1.000", "+0.00025", "0.00003", "0.100")]
    assert rounds(found) == [("2", "safe -0.00002", "safe 1")]


def test_the_calibration_says_what_a_small_margin_is(capsys):
    goals = [SimpleNamespace(label="safe", asked=3e-4, heldout=100)]
    scale = SimpleNamespace(scale=1.5, kl=0.2, improvement=[-4.3e-5], met=True)
    search = SimpleNamespace(found=SimpleNamespace(scale=scale), targets=[1.5e-3], confirmed=True)
    _print(goals, search, "")
    said = "asked +0.00030, aimed at +0.00150, expected -0.00004 at scale 1.500 (KL 0.20 nats)"
    assert capsys.readouterr().out == f"calibrate: safe: {said}\n"
    assert "100 held-out prompts takes +0.0012, more than the margin" in next(_far_aims(goals, [1.5e-3]))
