"""What a report advises: what helps, one thing at a time, and nothing that contradicts the rest of it."""

from types import SimpleNamespace

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.reporting.advice import next_steps
from cann_jax.reporting.comparison import _summary
from cann_jax.reporting.multipliers import _shadow_price, multiplier_lines
from cann_jax.run.results import bound_lines, number, summary_lines, verdicts
from cann_jax.run.run import Run
from tests.reporting.conftest import CERTIFICATE, DUAL, RESULTS, SIGN

NEAR = CERTIFICATE | {"prompts_needed": None, "mean": 0.5}
UNBOUNDED = NEAR | {"lower": None, "upper": None, "prompts": 96}
SHORT = CERTIFICATE | {"verdict": "fails", "mean": 0.3, "prompts_needed": None}
WARNED = (SimpleNamespace(health=SimpleNamespace(warnings=[SIGN])),)


def steps(certificate, *flags, scale=1.25, label="safe", **more) -> list[str]:
    """Return what is advised to a run of the quickstart's settings with this certificate."""
    row, summary = RESULTS["safe"] | {"certificate": certificate}, RESULTS["summary"] | {"scale": scale}
    row |= {"label": label}
    own = (
        ()
        if "--constraints" in flags
        else ("--constraints", "{safe: {scorer: {kind: relevance}, margin: 0.5}}")
    )
    found = {
        "run": Run(parse_run(["--config", "quickstart", *own, *flags])[0]),
        "results": RESULTS | {"safe": row, "summary": summary},
        **{"at_work": None, "commits": {}, "dual": None, "calibration": None, "trainings": (), "rounds": []},
    }
    return next_steps(SimpleNamespace(**found | more))


@pytest.mark.parametrize(
    "certificate, flags, said",
    [
        (
            UNBOUNDED,
            (),
            "safe: all 96 prompts gave the same, which tells nothing of others; evaluate on more",
        ),
        (UNBOUNDED | {"prompts": 1}, (), "safe: one prompt decides nothing; evaluate on more"),
        (NEAR, ("--calibrate.aim", "certificate"), "lower the margin, or train for more than it."),
        (NEAR, ("--calibrate.aim", "margin"), "train for more than it (calibrate.aim certificate does)."),
    ],
)
def test_an_estimate_is_too_near_only_where_it_is(certificate, flags, said):
    """With no step taken, +0.000 was "too near" +1.000."""
    (step,) = steps(certificate, *flags)
    assert said in step and ("too near" in step) == (certificate == NEAR)


def test_where_no_step_was_taken_that_is_said():
    calibration = {"met": False, "scale": 0.0, "kl": 0.0}
    fails = SHORT | {"mean": 0.0, "lower": 0.0, "upper": 0.0}
    (step,) = steps(fails, scale=0.0, calibration=calibration)
    assert step == (
        "safe falls short of the margin: no scale of the trained step came nearer; train on more prompts, or "
        "lower the margin."
    )
    still = RESULTS | {"summary": RESULTS["summary"] | {"scale": 0.0}}
    assert summary_lines(still)[0].endswith("step: 0.000, no step was taken: the model is the reference")
    assert verdicts(still)[0].text.endswith("; no step was taken: the model is the reference")
    assert "no step" not in " ".join(summary_lines(RESULTS)) + verdicts(RESULTS)[0].text


@pytest.mark.parametrize("by, most", [("attainable", "+0.700"), ("plug_in", "+0.900")])
def test_a_margin_has_one_maximum(by, most):
    """Two lines apart stood the ceiling of a λ that the run did not take, and the largest margin."""
    dual = DUAL | {"feasible": "no", "chosen": DUAL["chosen"] | {"by": by}}
    assert f"(safe asks +0.500, of {most} at most)" in steps(SHORT, results=None, dual=dual)[0]


MET = {"met": True, "confirmed": True, "scale": 1.2, "kl": 0.2}


@pytest.mark.parametrize(
    "calibration, flags, rounds, said",
    [
        (
            MET,
            ("--calibrate.aim", "margin"),
            [],
            "raise calibrate.responses or give more prompts.calibration, which decide the scale, or set "
            "calibrate.aim to certificate, which goes further",
        ),
        (
            MET,
            ("--calibrate.aim", "certificate", "--rounds", "2"),
            [],
            "raise calibrate.responses or give more prompts.calibration, which decide the scale, or ask for "
            "more than it",
        ),
        (
            MET | {"confirmed": False},
            (),
            [],
            "raise calibrate.tries, so that a sample confirms the scale, or set rounds to 2, which go on "
            "from here with λ raised by what is missing",
        ),
        (
            {"met": False, "scale": 0.0, "kl": 0.0},
            ("--rounds", "2"),
            [{"round": 2}],
            "set rounds to 3, which go on from here with λ raised by what is missing",
        ),
    ],
)
def test_rounds_are_advised_where_some_would_be_run(calibration, flags, rounds, said):
    """Rounds are skipped where calibration met its aim; after some, the scale that they began at is past."""
    (step,) = steps(SHORT, *flags, calibration=calibration, rounds=rounds)
    assert step == f"safe falls short of the margin: {said}."


def test_people_s_labels_are_not_told_to_move_lambda():
    flags = (
        "--preferences",
        "{dataset: local, path: x.jsonl, on_overlong: drop}",
        "--align.pairs",
        "dataset",
    )
    flags += ("--align.loss", "dpo", "--align.labels", "scores", "--align.group_size", "2")
    (step,) = steps(SHORT, *flags, "--align.preference", "safer", dual=DUAL | {"margins": [0.9]})
    assert step == "safe falls short of the margin: train on more pairs."


@pytest.mark.parametrize(
    "goal, short, less",
    [
        ("margin: 0.5", "falls short of the margin", "lower the margin"),
        ("at_least: 0.5", "falls short of at_least 0.5", "lower at_least"),
        ("max_unsafe: 0.5", "has more unsafe responses than max_unsafe 0.5", "raise max_unsafe"),
    ],
)
def test_advice_has_the_words_of_the_setting(goal, short, less):
    """Of at_least it said "falls short of the margin: it is above what this model can tell; lower it"."""
    flags = ("--constraints", f"{{safe: {{scorer: {{kind: relevance}}, {goal}, group: even}}}}")
    dual = DUAL | {"constraints": ["safe@even"], "margins": [0.9]}
    (step,) = steps(SHORT, *flags, label="safe@even", dual=dual)
    assert step == (
        f"safe@even {short}: the training prompts ask for +0.900 over the reference, above the +0.700 that "
        f"this model can tell; {less}, or sample more prompts."
    )
    (step,) = steps(None, *flags, results=None, dual=dual | {"feasible": "no"})
    assert step.endswith(f"of +0.700 at most): {less}, and start train again.")
    (step,) = steps(NEAR, *flags, label="safe@even")
    assert f"any number of prompts; {less}, or train for more" in step


def test_prompts_of_a_group_are_counted_as_such():
    """It was "evaluate on about 298 held-out prompts instead of 8", of a file with 16, 8 in the group."""
    flags = ("--constraints", "{safe: {scorer: {kind: relevance}, margin: 0.5, group: even}}")
    (step,) = steps(CERTIFICATE, *flags, label="safe@even")
    assert step.startswith("safe@even: evaluate on about 9 held-out prompts of group even instead of 2 (prom")
    found = RESULTS | {"safe": RESULTS["safe"] | {"label": "safe@even"}}
    assert verdicts(found)[0].text.endswith(" on 2 unseen prompts of group even")
    assert bound_lines(found)[0].endswith(
        "; about 9 prompts of group even would decide at this estimate that it holds"
    )
    for certificate in (UNBOUNDED, UNBOUNDED | {"prompts": 1}):
        assert " of group even " in steps(certificate, *flags, label="safe@even")[0]


def test_a_scale_at_its_limit_comes_before_a_step_that_is_called_too_long():
    calibration = {"met": False, "scale": 4.0, "kl": 0.161}
    (step,) = steps(SHORT, trainings=WARNED, calibration=calibration)
    assert (
        "no scale within calibrate.kl_limit (3) and calibrate.largest (4) met the aim (4 was kept, at KL"
        in step
    )
    assert "the training warned" not in step
    (step,) = steps(SHORT, trainings=WARNED, calibration=calibration | {"met": True})
    assert "the training warned; do first what its warnings say" in step


def test_nothing_has_no_minus_and_a_negative_number_has():
    assert [number(value) for value in (-0.0001, -0.0, -0.0005001)] == ["-0.000", "+0.000", "-0.001"]


@pytest.mark.parametrize(
    "policy, line, advice",
    [
        ("reference", "nothing was trained: the reference is measured against itself, drawn anew", []),
        (
            "resample",
            "λ: safe 1.5 (β = 0.1); nothing was trained: among responses of the reference λ chooses",
            [
                "safe falls short of the margin: nothing was trained; ask for more than it, or give a larger "
                "λ (dual.multipliers)."
            ],
        ),
    ],
)
def test_a_run_without_a_training_has_no_scale_and_is_not_told_to_train(policy, line, advice):
    """A baseline that failed was to be another run: "set it to aligned"."""
    summary = RESULTS["summary"] | {"policy": policy, "scale": 1.0, "kl": 0.0, "kl_predicted": None}
    found = RESULTS | {"summary": summary, "safe": RESULTS["safe"] | {"certificate": SHORT}}
    said = summary_lines(found)
    assert said[0] == line and said[1] == "KL to the reference: 0.000 nats a response (no forecast)"
    assert verdicts(found)[0].text.endswith(f"unseen prompts; {line.partition('; ')[2] or line}")
    assert steps(SHORT, "--evaluate.policy", policy) == advice
    row = _summary("run", SimpleNamespace(results=found))
    assert row[2] == ("–" if policy == "reference" else "safe 1.5") and row[-2] == "–"


def test_a_negative_kl_is_called_an_estimate():
    found = RESULTS | {"summary": RESULTS["summary"] | {"kl": -0.002}}
    assert summary_lines(found)[1] == (
        "KL to the reference: -0.002 nats a response (predicted 0.250 at scale 1), estimated from samples, "
        "which can fall below 0"
    )
    assert "estimated" not in summary_lines(RESULTS)[1]


@pytest.mark.parametrize(
    "margin, price",
    [(0.2, "0.02 of safe costs about 0.3"), (3e-4, "0.00003 of safe costs about 0.00045"), (0.0, "0.01 of")],
)
def test_the_step_of_a_price_suits_its_margin(margin, price):
    """A further 0.01 is out of reach where the largest margin is 0.001."""
    assert f"every further {price}" in _shadow_price("safe", 15.0, margin, alone=False)


def test_a_constraint_that_the_configuration_has_no_more_gets_no_advice():
    other = ("--constraints", "{other: {scorer: {kind: relevance}, margin: 0.5}}")
    assert steps(SHORT, *other) == []


def test_a_margin_that_another_constraint_meets_is_not_met_by_the_reward_alone():
    """ "What is best for the reward alone meets the margin" was said of one that it misses by far."""
    names = ["safe", "kind"]
    dual = {"constraints": names, "multipliers": [0.9, 0.0], "margins": [0.8, 0.3]}
    dual["by_constraint"] = {key: {"multiplier_interval": None} for key in names}
    *_, kind = multiplier_lines(dual)
    assert kind == "shadow price: none; what is best for the others meets the margin of kind"
    *_, kind = multiplier_lines(dual | {"multipliers": [0.0, 0.0]})
    assert kind == "shadow price: none; what is best for the reward alone meets the margin of kind"
