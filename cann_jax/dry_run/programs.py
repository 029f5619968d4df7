"""The programs of a run, traced from shapes alone: no weight is read and nothing is computed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.config.model import ModelConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.training import LoraConfig
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.language_model import batch_logps
from cann_jax.run.training import Training, objective_of, split
from cann_jax.runtime.placement import shapes_of_batch, shapes_of_parameters
from cann_jax.sampling.generate import generate
from cann_jax.sampling.shards import static_arguments
from cann_jax.training.preference_data import Batching
from cann_jax.training.preference_objective import PreferenceBatch
from cann_jax.training.step import forward, start, train_step


def trace_sampling(config: RunConfig, shape: DecoderConfig, width: int, stop_tokens: int) -> Any:
    """Trace sampling of one batch.

    Args:
        config: The run's configuration.
        shape: The model.
        width: Tokens of the longest prompt, padding included.
        stop_tokens: Number of ids that end a response.
    """
    sample = config.sample
    graph, weights = nnx.split(_decoder(config.model, shape))
    batch = [_integers(sample.prompts_per_batch, width), *[_integers(sample.prompts_per_batch)] * 2]
    prompts, lengths, indices = shapes_of_batch(batch)
    settings = static_arguments(sample, sample.responses)
    stop = _integers(stop_tokens)
    return generate.trace(
        graph, shapes_of_parameters(weights), prompts, lengths, indices, _key(), stop, **settings
    )


def trace_scoring(config: RunConfig, shape: DecoderConfig, width: int) -> Any:
    """Trace the log-probs of one batch of responses, one response to a sequence."""
    graph, weights = nnx.split(_decoder(config.model, shape))
    size, length = config.sample.prompts_per_batch, config.sample.max_new_tokens
    batch = [_integers(size, width), _integers(size), _integers(size, 1, length), _integers(size, 1)]
    return batch_logps.trace(graph, shapes_of_parameters(weights), *shapes_of_batch(batch))


def trace_training(
    model: ModelConfig, training: Training, shape: DecoderConfig, width: int, steps: int, length: int
) -> dict[str, Any]:
    """Trace the reference's pass over a training batch and the training step, by name.

    Args:
        model: How products are computed.
        training: The training.
        shape: The model.
        width: Tokens of the longest prompt, padding included.
        steps: Steps of the run.
        length: Tokens of the longest response, padding included.
    """
    lora = training.settings.lora
    decoder = _decoder(model, shape, lora, wide=lora is None)
    graph, weights, frozen = split(decoder, lora)
    objective = objective_of(training, graph, steps)
    state = shapes_of_parameters(jax.eval_shape(lambda weights: start(objective, weights), weights))
    frozen = shapes_of_parameters(frozen)
    batch = shapes_of_batch(_preferences(training.batching, width, length))
    return {
        "reference log-probs": forward.trace(objective, state.weights, frozen, batch),
        "training step": train_step.trace(objective, state, frozen, batch, _key()),
    }


def _decoder(
    model: ModelConfig, shape: DecoderConfig, lora: LoraConfig | None = None, *, wide: bool = False
) -> Decoder:
    return abstract_decoder(shape, model.dtype, lora, wide=wide, attention=model.attention)


def _preferences(batching: Batching, width: int, length: int) -> PreferenceBatch:
    batch, group = batching.prompts_per_step, batching.group_size
    return PreferenceBatch(
        prompts=_integers(batch, width),
        prompt_lengths=_integers(batch),
        responses=_integers(batch, group, length),
        response_lengths=_integers(batch, group),
        reference_logps=_floats(batch, group),
        labels=_floats(batch, group, group),
        rewards=_floats(batch, group),
    )


def _integers(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
