"""The listwise loss on predicted scores, as the stage ``align`` trains it."""

import numpy as np
import pytest
from scipy.special import entr, softmax

from cann_jax.command_line.run_options import parse_run
from cann_jax.run.outputs import read_dual, read_predicted, read_scores, write_predicted
from cann_jax.run.run import Run
from tests.builders.runs import metrics

FLAGS = ("--stages", "align", "--align.loss", "listwise", "--export", "[]")
ALL = ("--align.heldout_prompts", "0")
DENOISED = ("--align.labels", "denoised")


@pytest.fixture
def run(copy) -> Run:
    """The finished run; its stage ``dual`` has written the predicted scores."""
    flags = ["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")]
    return Run(parse_run(flags)[0])


def test_predicted_scores_are_read_by_name(run):
    random = np.random.default_rng(0)
    write_predicted(run, random.normal(size=(12, 4)), random.normal(size=(12, 4, 2)))
    random = np.random.default_rng(0)
    reward, constraints = read_predicted(run)
    np.testing.assert_array_equal(reward, random.normal(size=(12, 4)).astype(np.float32))
    np.testing.assert_array_equal(constraints, random.normal(size=(12, 4, 2)).astype(np.float32))
    turned = dict(reversed(run.config.constraints.items()))
    object.__setattr__(run.config, "constraints", turned)
    np.testing.assert_array_equal(read_predicted(run)[1], constraints[..., ::-1])
    assert list(read_scores(run)) == ["reward", *turned]


@pytest.mark.parametrize("size", [4, 3])
def test_a_listwise_training_starts_at_its_logarithm(run, copy, again, size):
    """The steps take each prompt five times, so with whole groups the floor is a plain mean."""
    said = again(*FLAGS, *DENOISED, *ALL, "--align.group_size", str(size), "--align.epochs", "5")
    assert metrics(copy)[0]["loss"] == pytest.approx(np.log(size), abs=1e-6)
    assert f"listwise: loss starts at ln {size} = {np.log(size):.3f}, its floor is " in said
    assert "labels from predicted scores" in said
    if size == 4:
        reward, constraints = read_predicted(run)
        tilt = reward + constraints @ read_dual(run).ordered(run.config)
        floor = float(np.mean(entr(softmax(tilt / run.config.dual.beta, axis=1)).sum(1)))
        assert f"its floor is {floor:.3f}" in said


def test_other_labels_give_another_training(run, copy, again):
    """The scores themselves, or what is predicted of them: nothing else changes."""
    losses = {}
    for flags in ((), DENOISED):
        again(*FLAGS, *flags, "--align.optimizer.learning_rate", "0.01")
        losses[flags] = [row["loss"] for row in metrics(copy)]
    assert losses[()][0] == pytest.approx(losses[DENOISED][0], abs=1e-6)
    assert losses[()][-1] != losses[DENOISED][-1]
