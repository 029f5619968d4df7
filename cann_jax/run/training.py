"""What is compiled: the fixed part of a training step, from the configuration."""

from typing import Any

from flax import nnx

from cann_jax.config.run import RunConfig
from cann_jax.models.layers import LoraParam
from cann_jax.training.optimizer import optimizer
from cann_jax.training.preference_data import Batching
from cann_jax.training.preference_objective import PreferenceObjective

ADAPTER = "adapter"  # a folder in PEFT's format, below the stage that trained it

# Which of a decoder's weights are trained, by whether all are.
TRAINED = {True: nnx.Param, False: LoraParam}


def batching_of(config: RunConfig) -> Batching:
    """Return how the responses of a run are put into steps and labelled."""
    align = config.align
    return Batching(
        seed=config.seed,
        epochs=align.epochs,
        prompts_per_step=align.prompts_per_step,
        group_size=align.group_size,
        selection=align.selection,
        labels=align.labels,
        label_temperature=align.label_temperature if align.preference == "pseudo_reward" else 0.0,
        label_smoothing=align.label_smoothing,
        ragged=align.pairs == "dataset",
    )


def spec_of(config: RunConfig, graph: Any, steps: int) -> PreferenceObjective:
    """What is fixed while training.

    Raises:
        InputError: the warm-up is no shorter than the run.
    """
    align = config.align
    return PreferenceObjective(
        graph=graph,
        optimizer=optimizer(align.optimizer, steps),
        loss=align.loss,
        beta=config.dual.beta,
        chunks=align.vocabulary_chunks,
        rematerialise=align.rematerialise,
        accumulation=align.accumulation,
    )
