"""A training that overshoots: it is said while it runs and in the report, and the best checkpoint is kept."""

import re
import shutil

import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.training.health import read_health
from tests.builders.runs import metrics, saved_weights

OVERSHOOT = (
    *("--align.optimizer.learning_rate", "0.3", "--align.optimizer.clip_norm", "0.01"),
    *("--align.epochs", "8", "--align.heldout_prompts", "3", "--align.group_size", "4"),
    *("--export", "[]", "--align.lora.dropout", "0"),
)
STOP = ("--align.early_stop", "true", "--stages", "align")


def checks(folder) -> dict[int, float]:
    """Held-out losses by the number of steps after which they were measured."""
    rows = metrics(folder)
    return {row["step"] + 1: row["heldout_loss"] for row in rows if "heldout_loss" in row}


def test_measured_at_every_checkpoint_and_at_the_end(finished):
    folder = finished / "runs/tiny/align"
    found = checks(finished)
    assert list(found) == [2, 4, 5]
    health = read_health(folder)
    assert [check["step"] for check in health.checks] == [2, 4, 5] and health.kept_step == 5
    assert health.start_loss == pytest.approx(np.log(2), abs=1e-6) and health.heldout_prompts == 1
    assert {path.name for path in folder.glob("reference-*.parquet")} == {
        *(f"reference-{step:05d}.parquet" for step in range(5)),
        *("reference-heldout-00000.parquet", "reference-heldout-00001.parquet"),
    }


def test_overshoot_is_said_while_it_runs_and_in_the_report(again, copy):
    said = again(*OVERSHOOT)
    assert "align: kept from training, to watch it: 3 of 12 prompts (align.heldout_prompts)" in said
    (apart,) = re.findall(r"align: log-probs of trainer and sampler differ by (\S+) nats a token", said)
    assert float(apart) < 1e-5  # both float32
    warned = [line for line in said.splitlines() if line.startswith("align: warning after step ")]
    assert len(warned) == len(read_health(copy / "runs/tiny/align").warnings) > 1
    assert any("lower align.optimizer.learning_rate" in line for line in warned)
    assert any("align.optimizer.clip_norm (0.01)" in line for line in warned)
    report = (copy / "runs/tiny/report.md").read_text()
    for sign in read_health(copy / "runs/tiny/align").warnings:
        assert f"**warning**, {sign.when}: {sign.text}" in report
    assert "3 prompts kept from training: loss 0.693 → " in report


def test_the_best_checkpoint_is_kept(again, copy):
    """It is older than the two newest that are kept anyway, and it is what an undisturbed run would leave."""
    said, folder = again(*OVERSHOOT, *STOP), copy / "runs/tiny/align"
    losses = checks(copy)
    best, last = min(losses, key=losses.__getitem__), max(losses)
    assert best < last - 4
    assert f"align: early stop: the weights after step {best} of {last} are kept" in said
    assert read_health(folder).kept_step == best
    there = {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()}
    assert best in there and last in there and len(there) == 3
    kept = saved_weights(folder / "weights")
    at_best = saved_weights(folder / f"checkpoints/{best}/default")
    assert all(np.array_equal(kept[name], at_best[f"['weights']{name}"]) for name in kept)

    # Killed before the commit, or long before the end: the same checkpoint is chosen again.
    for lost in ((), tuple(step for step in there if step != best)):
        (folder / "manifest.json").unlink()
        shutil.rmtree(folder / "weights")
        for step in lost:
            shutil.rmtree(folder / f"checkpoints/{step}")
        said = again(*OVERSHOOT, *STOP)
        assert "align: resumed after step " in said
        assert f"align: early stop: the weights after step {best} of {last} are kept" in said
        resumed = saved_weights(folder / "weights")
        assert all(np.array_equal(kept[name], resumed[name]) for name in kept)
        assert checks(copy) == losses and read_health(folder).kept_step == best


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--align.heldout_prompts", "0"), "align.early_stop is true and heldout_prompts 0"),
        (("--prompts.limit", "3"), "align.early_stop is true, and of 3 prompts none can be kept"),
    ],
)
def test_nothing_to_stop_by(again, flags, message):
    with pytest.raises(InputError, match=message) as caught:
        again("--align.early_stop", "true", *flags)
    assert "\n" not in str(caught.value)


def test_no_prompt_is_kept_where_none_is_wanted(again, copy):
    again("--align.heldout_prompts", "0", "--stages", "align", "--export", "[]")
    assert not checks(copy) and read_health(copy / "runs/tiny/align").checks == []
    assert len(list((copy / "runs/tiny/align").glob("reference-*.parquet"))) == 5
