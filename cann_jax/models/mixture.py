"""Policies added in log-probs, token by token: what a sum of adapters' weights stands for, exactly."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from cann_jax.data.padding import pad
from cann_jax.models.language_model import CHUNK, LanguageModel, calls
from cann_jax.models.logprobs import logps_of_states, predicting_states
from cann_jax.runtime.memory import checked
from cann_jax.runtime.placement import fetch, place_batch
from cann_jax.runtime.sharding import axis_size


def mixed_logps(
    reference: LanguageModel,
    policies: Sequence[LanguageModel],
    coefficients: Sequence[float],
    prompts: Sequence[np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:
    """Return the log-probs (N, K), nats, by log π_ref + Σ c_i (log π_i − log π_ref), normalised per token.

    All policies have the reference's head, as adapters of its layers have. The mixture's logits are then the
    head's of one mixed state, (1 − Σ c)·h_ref + Σ c_i·h_i: constants of a token drop out when normalised.

    Args:
        reference: π_ref.
        policies: π_i.
        coefficients: c_i.
        prompts: As in ``LanguageModel.logps``, like the rest.
        tokens: (N, K, T).
        lengths: (N, K).

    Raises:
        ValueError: The model caps its logits, which then do not add up.
    """
    if reference.config.final_softcap is not None:
        raise ValueError("logits that are capped do not add up")
    shares = [1 - sum(coefficients), *coefficients]
    found = np.empty(lengths.shape, np.float32)
    for chosen, width in calls(np.array([*map(len, prompts)]), tokens[0].size, axis_size("batch")):
        batch = *pad([prompts[row] for row in chosen], width), tokens[chosen], lengths[chosen]
        arrays = place_batch(batch)
        states = [_states(each.graph, each.weights, *arrays) for each in (reference, *policies)]
        mixed = sum(share * state for share, state in zip(shares, states, strict=True))
        found[chosen] = fetch(_logps(reference.graph, reference.weights, mixed, *arrays[2:]))
    return found


@checked
@partial(jax.jit, static_argnames="graph")
def _states(graph: Any, weights: Any, *arrays: Array) -> Array:
    return predicting_states(nnx.merge(graph, weights), *arrays)


@checked
@partial(jax.jit, static_argnames="graph")
def _logps(graph: Any, weights: Any, states: Array, responses: Array, lengths: Array) -> Array:
    model = nnx.merge(graph, weights)
    return logps_of_states(model, states, responses, lengths, chunks=-(-model.config.vocabulary // CHUNK))
