"""The programs of a run, traced from shapes alone: no weight is read and nothing is computed."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.config.model import ModelConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.config.training import LoraConfig
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.language_model import batch_logps
from cann_jax.models.packing import Room
from cann_jax.run.training import Training, objective_of, split
from cann_jax.runtime.placement import shapes_of_batch, shapes_of_parameters
from cann_jax.sampling.features import chosen_layers
from cann_jax.sampling.generate import generate
from cann_jax.sampling.mesh import Batch, on_sampling_mesh
from cann_jax.sampling.shards import static_arguments
from cann_jax.stages.score_model import score_objective
from cann_jax.training.batching import Batching
from cann_jax.training.preference_objective import PreferenceBatch
from cann_jax.training.score_objective import ScoreBatch, ScoreWeights
from cann_jax.training.step import Objective, TrainState, forward, start, train_step


def trace_sampling(config: RunConfig, shape: DecoderConfig, width: int, stop_tokens: int) -> Any:
    """Trace sampling of one batch of prompts of this width, with this number of ids that end a response."""
    sample = config.sample
    size, responses = sample.prompts_per_batch, sample.responses
    graph, weights = nnx.split(_decoder(config.model, shape))
    batch = [_integers(size, width), *[_integers(size)] * 2]
    layers = chosen_layers(sample.feature_layers, shape.layers)
    sizes = Batch(size, responses, width, sample.max_new_tokens, sample.slots)
    with on_sampling_mesh(weights, shape, sizes):
        arrays = (shapes_of_parameters(weights), *shapes_of_batch(batch), _key(), _integers(stop_tokens))
        return generate.trace(graph, *arrays, **static_arguments(sample, responses, layers))


def trace_scoring(config: RunConfig, shape: DecoderConfig, width: int) -> Any:
    """Trace the log-probs of one batch of responses, one response to a sequence."""
    graph, weights = nnx.split(_decoder(config.model, shape))
    size, length = config.sample.prompts_per_batch, config.sample.max_new_tokens
    batch = [_integers(size, width), _integers(size), _integers(size, 1, length), _integers(size, 1)]
    return batch_logps.trace(graph, shapes_of_parameters(weights), *shapes_of_batch(batch))


def trace_training(
    model: ModelConfig, training: Training, shape: DecoderConfig, width: int, steps: int, length: int,
    room: Room | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trace the reference's pass over a training batch and the training step, by name.

    ``width`` and ``length`` are the tokens of the longest prompt and response, padding included, and ``room``
    is the largest of the rows, where they hold several.
    """
    lora = training.settings.lora
    graph, weights, frozen = split(_decoder(model, shape, lora, wide=lora is None), lora)
    objective = objective_of(training, graph, steps)
    batch = _preferences(training.batching, width, length)._replace(room=room)
    if training.safety_offset is not None:
        batch = batch._replace(safe=batch.reference_logps)
    state, frozen, batch = _placed(objective, weights, frozen, batch)
    return {
        "reference log-probs": forward.trace(objective, state.weights, frozen, batch),
        "training step": train_step.trace(objective, state, frozen, batch, _key()),
    }


def trace_score_training(
    config: ScoreModelConfig, shape: DecoderConfig, width: int, length: int, room: Room | None, steps: int
) -> Any:
    """Trace the training step of a score model; arguments as ``trace_training``."""
    size, lora = config.pairs_per_step, config.lora
    graph, trained, frozen = split(_decoder(config.model, shape, lora, wide=lora is None), lora)
    objective = score_objective(config, graph, steps)
    sizes = ((size, width), (size,), (size, 2, length), (size, 2), (size,), (size, 2))
    batch = ScoreBatch(*(_integers(*each) for each in sizes))._replace(room=room)
    placed = _placed(objective, ScoreWeights(trained, _floats(shape.hidden)), frozen, batch)
    return train_step.trace(objective, *placed, _key())


def _placed(objective: Objective[Any], weights: Any, frozen: Any, batch: Any) -> tuple[TrainState, Any, Any]:
    state = jax.eval_shape(lambda weights: start(objective, weights), weights)
    return shapes_of_parameters(state), shapes_of_parameters(frozen), shapes_of_batch(batch)


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
