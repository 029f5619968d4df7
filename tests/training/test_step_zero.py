"""Before the first update the policy is the reference, in every training of every shipped configuration."""

import math

import jax
import numpy as np
import pytest
from etils import epath

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.dry_run.run import trainings
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.run.run import Run
from cann_jax.run.training import (
    Training,
    objective_of,
    preference_data,
    split,
)
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.reference import with_reference
from cann_jax.training.step import start, train_step
from tests.builders import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LISTWISE = ["--align.loss", "listwise"]
TRAININGS = {
    f"{path.stem}-{name}{''.join(flags[1:])}": (run.config.model.dtype, training)
    for path, flags in [*((path, []) for path in CONFIGS), (ROOT / "configs/quickstart.yaml", LISTWISE)]
    for run in [Run(parse_run(["--config", str(path), *flags])[0])]
    for name, training in trainings(run).items()
}


def made_up(training: Training) -> PreferenceData:
    """One step's prompts with responses of random ids, each pair with a label of its own."""
    random = np.random.default_rng(0)
    count, group = training.batching.prompts_per_step, training.batching.group_size
    lengths = random.integers(2, 9, (count, group))
    human = training.supervision.label is not None
    reward = np.eye(2)[random.integers(0, 2, count)] if human else random.normal(size=(count, group))
    prompts = EncodedPrompts(
        tuple(Prompt(str(n), "made up") for n in range(count)),
        tuple(random.integers(0, 300, random.integers(1, 12)).astype(np.int32) for _ in range(count)),
    )
    responses = Responses(
        prompts=prompts,
        tokens=random.integers(0, 300, (count, group, 8)).astype(np.int32),
        lengths=lengths.astype(np.int32),
        stopped=np.ones((count, group), bool),
        logps=np.full((count, group), np.nan, np.float32),
        texts=[["made up"] * group] * count,
    )
    return preference_data(training, responses, reward.astype(np.float32))


@pytest.mark.parametrize("name", TRAININGS)
def test_loss_and_margins_before_the_first_update(name, tiny_folder, tmp_path):
    dtype, training = TRAININGS[name]
    lora = training.settings.lora
    decoder = load_decoder(open_model(str(tiny_folder)), dtype, lora, wide=lora is None)
    model = split(decoder, lora)
    spec = objective_of(training, model.graph, steps=1_000)
    data = with_reference(spec, model.reference, model.frozen, made_up(training), epath.Path(tmp_path))
    state = start(spec, model.reference)
    _, metrics = train_step(spec, state, model.frozen, data.batch(0), jax.random.key(1))
    # Of margins of zero, whatever the labels.
    expected = math.log(training.batching.group_size if training.loss == "listwise" else 2)
    assert training.loss in ("dpo", "listwise") and training.start is not None
    assert training.start[1] == pytest.approx(expected)
    assert float(metrics["loss"]) == pytest.approx(expected, abs=1e-6)
    bound = 1e-6 * float(np.abs(data.reference).mean())
    assert bound > 1e-6
    for margin in ("margin_mean", "margin_p10", "margin_p90", "log_ratio"):
        assert abs(float(metrics[margin])) <= bound, margin
    assert float(metrics["gradient_norm"]) > 1e-4
