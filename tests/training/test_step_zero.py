"""Before the first update the policy is the reference, in every training of every shipped configuration."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cann_jax.command_line.parser import parse_run
from cann_jax.config.run import RunConfig
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.models.load import load_decoder, open_model
from cann_jax.run.training import TRAINED, batching_of, spec_of
from cann_jax.stages.align import with_reference
from cann_jax.stages.prealign import trainings
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.step import start, train_step

CONFIGS = sorted((Path(__file__).resolve().parent.parent.parent / "configs").glob("*.yaml"))
TRAININGS = {
    f"{path.stem}-{name}": config
    for path in CONFIGS
    for name, config in trainings(parse_run(["--config", str(path)])[0]).items()
}


def made_up(config: RunConfig) -> PreferenceData:
    """One step's prompts with responses of random ids, each pair with a label of its own."""
    random = np.random.default_rng(0)
    count, group = config.align.prompts_per_step, config.align.group_size
    lengths = random.integers(2, 9, (count, group))
    human = config.align.preference != "pseudo_reward"
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
    return PreferenceData(batching_of(config), responses, reward.astype(np.float32), responses.logps)


@pytest.mark.parametrize("name", TRAININGS)
def test_loss_and_margins_before_the_first_update(name, tiny_folder, tmp_path):
    config = TRAININGS[name]
    full, data = config.align.lora is None, made_up(config)
    decoder = load_decoder(open_model(str(tiny_folder)), config.model.dtype, config.align.lora, wide=full)
    graph, weights, frozen = nnx.split(decoder, TRAINED[full], ...)
    spec = spec_of(config, graph, steps=1_000)
    data = with_reference(spec, weights, frozen, data, tmp_path)
    _, metrics = train_step(spec, start(spec, weights), frozen, data.batch(0), jax.random.key(1))
    assert config.align.loss == "dpo"  # whose loss at margins of zero is ln 2, whatever the labels
    assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    bound = 1e-6 * float(np.abs(data.reference).mean())
    assert bound > 1e-6
    for margin in ("margin_mean", "margin_p10", "margin_p90", "log_ratio"):
        assert abs(float(metrics[margin])) <= bound, margin
    assert float(metrics["gradient_norm"]) > 1e-4
