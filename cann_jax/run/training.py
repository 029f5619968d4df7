"""What is compiled: the fixed part of a training step, from the configuration."""

from typing import Any

from flax import nnx

from cann_jax.config.run import RunConfig
from cann_jax.models.adapters.lora import LoraParam
from cann_jax.training.optimizer import optimizer
from cann_jax.training.step import Spec

ADAPTER = "adapter"  # a folder in PEFT's format, below the stage that trained it

# Which of a decoder's weights are trained, by whether all are.
TRAINED = {True: nnx.Param, False: LoraParam}


def spec_of(config: RunConfig, graph: Any, steps: int) -> Spec:
    """What is fixed while training.

    Raises:
        InputError: the warm-up is no shorter than the run.
    """
    align = config.align
    return Spec(
        graph=graph,
        optimizer=optimizer(align.optimizer, steps),
        loss=align.loss,
        beta=config.dual.beta,
        chunks=align.vocabulary_chunks,
        rematerialise=align.rematerialise,
        accumulation=align.accumulation,
    )
