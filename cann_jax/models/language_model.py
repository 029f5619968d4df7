"""A decoder with its tokenizer, split once for use in pure functions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from cann_jax.data.padding import bucket_width, pad
from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.logprobs import response_logps
from cann_jax.models.prefix import SHORTEST, Prefix, common_length
from cann_jax.runtime.memory import checked
from cann_jax.runtime.placement import fetch, place_batch
from cann_jax.runtime.sharding import axis_size

CHUNK = 6144  # rows of the vocabulary whose logits exist at once, whatever its size
PACKED_TOKENS = 512  # response tokens in one row, behind its own prompt; attention is quadratic in them
BEHIND_TOKENS = 128  # the same behind a prompt computed before: 64 of 48 tokens took a tenth less than at 512
BATCH_TOKENS = 2048  # tokens a call and device, about; two Zen 4 cores gain nothing beyond


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

    def prefix(self, ids: np.ndarray) -> Prefix:
        """Compute the keys and values of tokens that many sequences begin with."""
        # On a mesh, one for each part of a batch; and a prompt of one token has none before it.
        rows, lengths = pad([ids] * axis_size("batch"), bucket_width(max(1, len(ids))))
        arrays = place_batch([rows, lengths])
        found: Prefix = _prefix(self.graph, self.weights, *arrays)
        return found

    def split_prefix(self, rows: Sequence[np.ndarray]) -> tuple[Prefix | None, Sequence[np.ndarray]]:
        """Return what all rows of ids begin with, computed, and the rest of each, of at least one token."""
        size = common_length(rows) if self.config.keeps_keys and len(rows) > 1 else 0
        if size < SHORTEST:
            return None, rows
        return self.prefix(rows[0][:size]), [row[size:] for row in rows]

    def logps(self, prompts: Sequence[np.ndarray], tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return log π(y|x) in nats, (N, K) float32, of K responses to each of N prompts, rows of ids.

        ``tokens`` is (N, K, T), padded on the right, and ``lengths`` (N, K). What all prompts begin with is
        computed once; where the responses to a prompt fill several rows, the whole prompt is.
        """
        if self._prompts_apart(*tokens.shape[1:]):
            alone = [self._behind(*each) for each in zip(prompts, tokens, lengths, strict=True)]
            return np.stack(alone)
        prefix, own = self.split_prefix(prompts)
        return self._logps(prefix, own, tokens, lengths, PACKED_TOKENS)

    def _behind(self, prompt: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return (K,) of one prompt, whose last token stays with its responses: it predicts their first."""
        prefix, own = self.prefix(prompt[:-1]), [prompt[-1:]]
        return self._logps(prefix, own, tokens[None], lengths[None], BEHIND_TOKENS).reshape(-1)

    def _prompts_apart(self, responses: int, length: int) -> bool:
        """Whether each prompt is computed before its responses, which fill several rows, and all devices."""
        several = responses_together(responses, length, PACKED_TOKENS) < responses
        rows = responses // responses_together(responses, length, BEHIND_TOKENS)
        return several and rows % axis_size("batch") == 0 and self.config.keeps_keys

    def _logps(
        self,
        prefix: Prefix | None,
        prompts: Sequence[np.ndarray],
        tokens: np.ndarray,
        lengths: np.ndarray,
        most: int,
    ) -> np.ndarray:
        """Return ``logps`` behind a prefix, in rows of ``most`` response tokens each."""
        _, responses, length = tokens.shape
        together = responses_together(responses, length, most)
        own = [ids for ids in prompts for _ in range(responses // together)]
        rows, packed = (x.reshape(-1, together, *x.shape[2:]) for x in (tokens, lengths))
        found = np.empty(packed.shape, np.float32)
        for chosen, width in calls(np.array([*map(len, own)]), rows[0].size, axis_size("batch")):
            batch = *pad([own[row] for row in chosen], width), rows[chosen], packed[chosen]
            arrays = place_batch(batch)
            found[chosen] = fetch(batch_logps(self.graph, self.weights, *arrays, prefix=prefix))
        return found.reshape(lengths.shape)


def responses_together(responses: int, length: int, most: int) -> int:
    """Return how many of the ``responses`` of ``length`` tokens stand in one row of at most ``most`` tokens.

    They divide the responses evenly; one is longer than ``most`` where it must be.
    """
    fitting = [n for n in range(1, responses + 1) if responses % n == 0 and n * length <= most]
    return max(fitting, default=1)


def calls(prompts: np.ndarray, responses: int, devices: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows of each call and the width of their prompts: rows of like lengths together.

    ``prompts`` (n,) are tokens of each row's prompt, ``responses`` of all its responses. All calls of a width
    have the same number of rows, a multiple of ``devices``, so that they need one program: the last is filled
    up with its last row.
    """
    order = np.argsort(-prompts, kind="stable")
    start = 0
    while start < len(order):
        longest = int(prompts[order[start]])
        width = 1 if longest == 1 else bucket_width(longest)
        fitting = devices * max(1, round(BATCH_TOKENS / (width + responses)))
        size = devices * -(-len(order) // (devices * -(-len(order) // fitting)))
        yield order[np.minimum(np.arange(start, start + size), len(order) - 1)], width
        start += size


@checked
@partial(jax.jit, static_argnames="graph")
def _prefix(graph: Any, weights: Any, rows: Array, lengths: Array) -> Prefix:
    """Return the prefix that each of the ``rows`` (B, P) holds."""
    positions = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape)
    _, keys_values = nnx.merge(graph, weights).prefill(
        rows, positions, causal_mask(positions < lengths[:, None])
    )
    return Prefix(jax.tree.map(lambda x: x[:, :1], keys_values), lengths[0])


@checked
@partial(jax.jit, static_argnames="graph")
def batch_logps(
    graph: Any, weights: Any, prompts: Array, prompt_lengths: Array,
    responses: Array, response_lengths: Array, *, prefix: Prefix | None = None,
) -> Array:  # fmt: skip
    """Run one call of ``LanguageModel.logps``; arguments as ``response_logps``."""
    model = nnx.merge(graph, weights)
    chunks = -(-model.config.vocabulary // CHUNK)
    arrays = (prompts, prompt_lengths, responses, response_lengths)
    return response_logps(model, *arrays, chunks=chunks, prefix=prefix)
