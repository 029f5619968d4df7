"""What is said of a training that goes wrong, and that nothing is said of one that does not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from etils import epath

from cann_jax.training.health import Sign, Watch, read_health

STEPS, EVERY = 40, 10
HEALTHY = {
    "heldout_loss": 0.66,
    "heldout_loss_error": 0.01,
    "heldout_slope": 0.9,
    "heldout_slope_error": 0.2,
}


def watch(every: int = EVERY, prompts: int = 16, items: int = 16) -> Watch:
    """A watch on items, such as pairs, that share so many prompts."""
    watched: Any = SimpleNamespace(prompts=np.arange(items) % prompts) if prompts else None
    return Watch("align", STEPS, every, 1.0, watched, np.full(items, 0.69), early_stop=False)


def rows(steps: int = STEPS, every: int = EVERY, norm=1.5, saturated=0.1, **measured) -> list[dict]:
    """The metrics of a training whose checks find the same each time."""
    found = []
    for step in range(steps):
        row = {"step": step, "loss": 0.6, "gradient_norm": norm, "saturated": saturated}
        found.append(row | (HEALTHY | measured if (step + 1) % every == 0 else {}))
    return found


def kinds(signs) -> list[tuple[str, int, int]]:
    return [(sign.kind, sign.first, sign.last) for sign in signs]


def test_a_healthy_training_is_not_warned_of():
    assert watch().signs(rows()) == []
    assert watch(prompts=0, items=0).signs(rows()) == []


@pytest.mark.parametrize(
    "measured, kind, named",
    [
        ({"heldout_loss": 0.97}, "heldout_loss", ["0.970, above its start, 0.690", "learning_rate"]),
        ({"heldout_slope": 0.05}, "slope", ["0.05, below 0.5", "lower align.optimizer.learning_rate"]),
        ({"norm": 10.0}, "gradient_norm", ["raise align.optimizer.clip_norm", "100% of the last 10 steps"]),
        ({"saturated": 0.8}, "saturated", ["80% of the pairs", "lower align.optimizer.learning_rate"]),
    ],
)
def test_each_sign_names_what_to_change(measured, kind, named):
    found = watch().signs(rows(**measured))
    assert kinds(found) == [(kind, 10, 40)]
    assert all(words in found[0].text for words in named) and "\n" not in found[0].text


def test_a_training_that_ends_far_short_of_what_it_knows_is_warned_of():
    """Before its end every training is short of it."""
    found = watch().signs(rows(heldout_slope=24.6))
    assert kinds(found) == [("short", 40, 40)]
    assert "24.60, above 2" in found[0].text and "align.epochs" in found[0].text
    assert watch().signs(rows(heldout_slope=24.6, heldout_slope_error=11.5)) == []


@pytest.mark.parametrize(
    "measured",
    [
        {"heldout_loss": 0.71},  # two standard errors above its start, of 16 prompts
        {"heldout_loss": 0.9, "heldout_loss_error": None},  # of a single prompt
        {"heldout_slope": 0.2},
        {"heldout_slope": None, "heldout_slope_error": None},  # nothing has moved
        {"norm": 1.9},
    ],
)
def test_what_chance_may_explain_is_no_sign(measured):
    assert watch().signs(rows(**measured)) == []


def test_pairs_of_one_prompt_are_not_many_prompts(tmp_path):
    """Three standard errors are much of 16 prompts and little of 3, however many pairs they have."""
    worse = rows(heldout_loss=0.72)
    assert kinds(watch(items=48).signs(worse)) == [("heldout_loss", 10, 40)]
    few = watch(prompts=3, items=48)
    assert few.signs(worse) == []
    few.report(epath.Path(tmp_path), worse)
    assert read_health(epath.Path(tmp_path)).heldout_prompts == 3


def test_constantly_means_nine_steps_of_ten_and_ten_at_least():
    noisy = rows(norm=10.0)
    for row in noisy[::5]:
        row["gradient_norm"] = 0.5
    assert watch().signs(noisy) == []
    for row in noisy[::10]:
        row["gradient_norm"] = 10.0
    assert kinds(watch().signs(noisy)) == [("gradient_norm", 10, 40)]
    assert kinds(watch(every=4).signs(rows(every=4, norm=10.0))) == [("gradient_norm", 12, 40)]


def test_a_sign_that_goes_away_keeps_the_step_of_its_last_appearance():
    found = rows()
    found[19]["heldout_slope"] = -1.0
    assert kinds(watch().signs(found)) == [("slope", 20, 20)]


def test_said_once_and_after_a_resume_not_again(tmp_path, capsys):
    folder, wrong = epath.Path(tmp_path), rows(heldout_loss=0.97)
    for steps in range(EVERY, STEPS + 1, EVERY):
        watch().report(folder, wrong[:steps])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith(
        "align: warning after step 10: the loss on prompts kept from"
    )
    watch().report(folder, wrong, kept=30)
    assert capsys.readouterr().out == ""
    found = read_health(folder)
    assert (found.steps, found.kept_step, found.heldout_prompts) == (STEPS, 30, 16)
    assert found.start_loss == pytest.approx(0.69) and kinds(found.warnings) == [("heldout_loss", 10, 40)]
    assert [check["step"] for check in found.checks] == [10, 20, 30, 40]
    assert found.checks[0] == {"step": 10} | HEALTHY | {"heldout_loss": 0.97}


def test_a_warning_that_was_seen_once_has_one_step():
    """It was "after step 4 and last after step 4"."""
    assert Sign("slope", 4, 4, "").when == "after step 4"
    assert Sign("slope", 2, 4, "").when == "after step 2 and last after step 4"
