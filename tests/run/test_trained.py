"""What was trained, in words, and whether λ and the dual's forecast speak of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.run import trained
from cann_jax.run.trained import is_foretold, reads_multipliers, trained_words
from tests.builders import ROOT

STEP = "one preference step with the reward r + ⟨λ, g⟩"
LATER = "of training on the policy's own samples, λ moved in each by what was missing"
PAIRS = "{dataset: local, path: own.jsonl, on_overlong: drop}"
PEOPLE = ("--preferences", PAIRS, "--align.pairs", "dataset", "--align.loss", "dpo", "--align.group_size",
          "2", "--align.labels", "scores", "--align.selection", "random", "--align.preference")  # fmt: skip
OFFSET = ("--align.loss", "dpo", "--align.safety_offset", "2")
SOUP = ("--align.combination", "soup")


@pytest.fixture
def made(monkeypatch):
    """Return a run of the quickstart's settings with further flags, and the dual that it follows."""

    def made(*flags, scale=1.25, rounds=(), weight=1.0, moved=1.0):
        config = parse_run(["--config", str(ROOT / "configs/quickstart.yaml"), *flags])[0]
        dual = SimpleNamespace(reward_weight=weight, ordered=lambda config: np.array([2.0]))
        scale = scale if config.calibrated else 1.0
        for name, value in {
            "read_dual": dual,
            "read_rounds": rounds,
            "read_scale": scale,
            "read_final_scale": 1.0 if rounds else scale,
            "read_multipliers": moved * dual.ordered(config),
        }.items():
            monkeypatch.setattr(trained, name, lambda run, value=value: value)
        return SimpleNamespace(config=config), dual

    return made


@pytest.mark.parametrize(
    "flags, known, words",
    [
        ((), {}, f"{STEP}, scaled by 1.250"),
        (("--prompts.calibration", "null"), {}, STEP),
        ((), {"scale": 0.0}, f"{STEP}, scaled by 0.000: no step was taken: the model is the reference"),
        ((), {"rounds": ({}, {})}, f"{STEP}, scaled by 1.250; then 2 rounds {LATER}"),
        (
            ("--rounds", "2"),
            {"rounds": ({},), "scale": 0.0},
            f"{STEP}, scaled by 0.000, which leaves the reference; then 1 round {LATER}",
        ),
        (("--rounds", "2"), {}, f"{STEP}, scaled by 1.250"),  # it met its aim, so that no round was run
        ((), {"weight": 0.0}, "one preference step with the reward ⟨λ, g⟩, scaled by 1.250"),
        ((), {"weight": 2.0}, "one preference step with the reward 2·r + ⟨λ, g⟩, scaled by 1.250"),
        (
            ("--align.combination", "sequence"),
            {},
            "one preference step on r and then one on ⟨λ, g⟩ from there (SACPO), scaled by 1.250",
        ),
        (
            ("--align.dial", "true"),
            {},
            "an adapter for each score, added as λ says (a dial), scaled by 1.250",
        ),
    ],
)
def test_a_policy_of_r_lambda_is_told_and_foretold_until_rounds_follow(made, flags, known, words):
    """A card said of 3 rounds "one preference step …, at 1.000 times its length in 3 rounds"."""
    run, dual = made(*flags, **known)
    assert trained_words(run) == words
    assert reads_multipliers(run.config) and is_foretold(run, dual) == ("round" not in words)


@pytest.mark.parametrize(
    "flags, knows, words",
    [
        ((*PEOPLE, "safer"), False, "one preference step on people's labels of what is safer"),
        ((*PEOPLE, "better"), False, "one preference step on people's labels of what is better"),
        (
            (*PEOPLE, "better", *OFFSET),
            False,
            "one preference step on people's labels of what is better, with a safe response preferred to an "
            "unsafe one by the offset 2 (SafeDPO)",
        ),
        (
            OFFSET,
            True,
            f"{STEP}, with a safe response preferred to an unsafe one by the offset 2 (SafeDPO)",
        ),
        (SOUP, True, "an adapter for each score, averaged with the weights 1 and λ (a soup)"),
        (
            ("--evaluate.policy", "resample"),
            True,
            "nothing was trained: among responses of the reference λ chooses",
        ),
        (
            ("--evaluate.policy", "reference"),
            False,
            "nothing was trained: the reference is measured against itself, drawn anew",
        ),
    ],
)
def test_what_is_no_step_on_r_lambda_is_told_and_not_foretold(made, flags, knows, words):
    """The card of each said "one preference step with the reward r + ⟨λ, g⟩"."""
    run, dual = made("--prompts.calibration", "null", *flags)
    assert trained_words(run) == words and not is_foretold(run, dual)
    assert reads_multipliers(run.config) == knows


def test_a_dial_whose_multipliers_moved_is_not_the_policy_of_the_forecast(made):
    flags = ("--align.dial", "true")
    assert is_foretold(*made(*flags)) and not is_foretold(*made(*flags, moved=1.5))


@pytest.mark.parametrize(
    "flags",
    [
        ("--align.loss", "ipo"),
        ("--align.loss", "dpo", "--align.label_temperature", "2"),
        ("--align.loss", "dpo", "--align.label_smoothing", "0.1"),
    ],
)
def test_a_loss_that_is_least_elsewhere_is_not_foretold(made, flags):
    assert is_foretold(*made("--align.loss", "dpo")) and not is_foretold(*made(*flags))
