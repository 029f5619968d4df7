"""Features of responses by plain forward passes over prompt and response."""

from functools import partial

import jax
import numpy as np
from flax import nnx

from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.decoder import Decoder


def features_by_forward(
    decoder: Decoder,
    prompts: list[np.ndarray],
    tokens: np.ndarray,
    lengths: np.ndarray,
    layers: tuple[int, ...],
) -> np.ndarray:
    """Return (N, K, layers · hidden) in float64 of tokens (N, K, T) behind N prompts, rows of ids."""
    width, found = max(map(len, prompts)) + tokens.shape[-1], []
    for n, k in np.ndindex(lengths.shape):
        start, end = len(prompts[n]), len(prompts[n]) + lengths[n, k]
        row = np.zeros((1, width), np.int32)
        row[0, :end] = np.concatenate([prompts[n], tokens[n, k, : lengths[n, k]]])
        streams = np.asarray(_streams(*nnx.split(decoder), row), np.float64)
        inside = streams[np.array(layers) - 1, 0, start:end]
        scaled = inside / np.sqrt(np.mean(inside**2, axis=-1, keepdims=True))
        found.append(scaled.mean(1).reshape(-1))
    return np.stack(found).reshape(*lengths.shape, -1)


@partial(jax.jit, static_argnames="graph")
def _streams(graph, weights, ids):
    """The residual stream (layers, B, S, hidden) after each layer, whatever follows a token."""
    mask = causal_mask(np.ones(ids.shape, bool))
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return nnx.merge(graph, weights).forward(ids, positions, mask, keep=lambda x, _: x)[1]
