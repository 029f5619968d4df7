"""A decoder with its tokenizer, split once for use in pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from cann_jax.data.padding import bucketed
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.logprobs import response_logps
from cann_jax.runtime.placement import fetch, place_batch
from cann_jax.runtime.sharding import axis_size

CHUNK = 6144  # rows of the vocabulary whose logits exist at once, whatever its size
PACKED_TOKENS = 512  # response tokens in one sequence; its attention mask is quadratic in them
BATCH_TOKENS = 2048  # tokens a call, about; two Zen 4 cores gain nothing beyond


@dataclass(frozen=True)
class LanguageModel:
    """A model that samples responses and computes their log-probs."""

    graph: Any  # of the split decoder; hashable, static under jit
    weights: Any
    files: ModelFiles  # of the model that it is, or was trained from

    @classmethod
    def of(cls, decoder: Decoder, files: ModelFiles) -> "LanguageModel":
        """Split a decoder."""
        return cls(*nnx.split(decoder), files)

    @property
    def decoder(self) -> Decoder:
        """The decoder."""
        decoder: Decoder = nnx.merge(self.graph, self.weights)
        return decoder

    @property
    def config(self) -> DecoderConfig:
        """The decoder's architecture."""
        return self.files.config

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.files.tokenizer

    def logps(self, prompts: Sequence[np.ndarray], tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return log π(y|x) in nats, (N, K) float32, of K responses to each of N prompts, rows of ids.

        ``tokens`` is (N, K, T), padded on the right, and ``lengths`` (N, K).
        """
        ids, prompt_lengths = bucketed(list(prompts))
        batch, together = call_shape(ids.shape[1], *tokens.shape[1:])
        batch *= axis_size("batch")
        repeats = tokens.shape[1] // together
        rows = (
            np.repeat(ids, repeats, axis=0),
            np.repeat(prompt_lengths, repeats),
            tokens.reshape(-1, together, tokens.shape[2]),
            lengths.reshape(-1, together),
        )
        starts = range(0, len(rows[0]), batch)
        return np.concatenate([self._logps(rows, start, batch) for start in starts]).reshape(lengths.shape)

    def _logps(self, rows: tuple[np.ndarray, ...], start: int, batch: int) -> np.ndarray:
        """Compute one batch; the last is padded with its last row, so that no new shape is compiled."""
        chosen = np.minimum(np.arange(start, start + batch), len(rows[0]) - 1)
        arrays = place_batch([jnp.asarray(row[chosen]) for row in rows])
        return fetch(batch_logps(self.graph, self.weights, *arrays))[: len(rows[0]) - start]


def call_shape(prompt: int, responses: int, length: int) -> tuple[int, int]:
    """Return sequences per call, and responses packed behind each prompt, which bound a call's memory.

    ``prompt`` and ``length`` are the widths of prompts and responses; those packed together divide
    ``responses`` evenly.
    """
    fitting = [n for n in range(1, responses + 1) if responses % n == 0 and n * length <= PACKED_TOKENS]
    together = max(fitting, default=1)
    return max(1, round(BATCH_TOKENS / (prompt + together * length))), together


@partial(jax.jit, static_argnames="graph")
def batch_logps(
    graph: Any, weights: Any, prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array
) -> Array:
    """Run one call of ``LanguageModel.logps``; arguments as ``response_logps``."""
    model = nnx.merge(graph, weights)
    chunks = -(-model.config.vocabulary // CHUNK)
    return response_logps(model, prompts, prompt_lengths, responses, response_lengths, chunks=chunks)
