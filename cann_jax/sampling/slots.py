"""Responses in progress: groups of rows that share a prompt and are at the same position."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cann_jax.models.bfloat16_words import to_words
from cann_jax.models.decoder import Decoder
from cann_jax.models.layers import KeysValues
from cann_jax.runtime.sharding import constrain
from cann_jax.sampling.draw import draw, nucleus, take, uniform
from cann_jax.sampling.features import Sums, adding, empty_sums, mean


class Samples(NamedTuple):
    """Responses to a batch of prompts.

    Args:
        tokens: (B, K, T) ids; 0 after the end.
        lengths: (B, K) token counts, end token included.
        logps: (B, K, T) float32 log-prob of each token under the model at temperature 1; 0 after the end.
        stopped: (B, K) True where the response ended with a stop token, False where it reached the limit.
        features: (B, K, layers · hidden) float32 mean over each response's tokens of the residual stream
            after the chosen layers, divided by its RMS at each token; None where no layer was chosen.
    """

    tokens: Array
    lengths: Array
    logps: Array
    stopped: Array
    features: Array | None = None


class Prompts(NamedTuple):
    """Computed prompts.

    Args:
        keys_values: (layers, B, P, kv_heads, head_dim); None where they are in the responses' own caches.
        valid: (B, P), False on padding.
        lengths: (B,) tokens of each.
        hidden: (B, hidden), the state of each prompt's last token.
    """

    keys_values: KeysValues | None
    valid: Array
    lengths: Array
    hidden: Array


class Slots(NamedTuple):
    """Responses in progress, of which all rows of a group are at one position.

    Args:
        step: How often the slots have drawn.
        positions: (groups,) of the tokens to draw next, in their responses.
        tokens: (groups, rows) drawn last, to be read next.
        own: Keys and values (layers, groups, rows, kv_heads, T, head_dim) of the tokens read, a ring; behind
            those of the prompt where the slots hold it.
        samples: What was drawn; without features.
        sums: Of the features, over the tokens read.
    """

    step: Array
    positions: Array
    tokens: Array
    own: KeysValues
    samples: Samples
    sums: Sums


@dataclass(frozen=True)
class Sampler:
    """A model, and how it is sampled; arguments as ``generate`` takes them."""

    model: Decoder
    stop_tokens: Array
    max_new_tokens: int
    temperature: float
    top_p: float
    feature_layers: tuple[int, ...]

    def start(self, prompts: Prompts, keys: Array, own: KeysValues) -> Slots:
        """Return slots for responses of these ``keys`` (groups, rows), their first tokens drawn."""
        shape = (len(keys), keys.shape[1])
        slots = Slots(
            step=jnp.int32(0),
            positions=jnp.zeros(len(keys), jnp.int32),
            tokens=jnp.zeros(shape, jnp.int32),
            own=own,
            samples=_empty_samples(shape, self.max_new_tokens),
            sums=empty_sums(self.feature_layers, shape, self.model.config.hidden),
        )
        hidden = jnp.broadcast_to(prompts.hidden[:, None], (*shape, prompts.hidden.shape[-1]))
        return self.draw(slots, hidden, keys)

    def empty_cache(self, shape: tuple[int, ...]) -> KeysValues:
        """Return room for the keys and values of responses (groups, rows)."""
        config, length = self.model.config, self.max_new_tokens
        sizes = (config.layers, *shape, config.kv_heads, length, config.head_dim)
        cache = to_words(jnp.zeros(sizes, self.model.dtype))
        cache = constrain(cache, "layers", "batch", "any", "kv_heads", "any", "any")
        return KeysValues(cache, cache)

    def read(self, slots: Slots, prompts: Prompts) -> tuple[Slots, Array]:
        """Read the tokens drawn last; return their hidden states (groups, rows, hidden) too."""
        last, column = slots.positions - 1, (slots.step - 1) % self.max_new_tokens
        add = adding(self.feature_layers, slots.samples.lengths > last[:, None])
        hidden, own, sums = self.model.decode(
            slots.tokens, prompts.lengths + last, prompts.keys_values, prompts.valid,
            slots.own, last, column, slots.sums, add,
        )  # fmt: skip
        return slots._replace(own=own, sums=sums), hidden

    def draw(self, slots: Slots, hidden: Array, keys: Array) -> Slots:
        """Draw the next tokens from hidden states (groups, rows, hidden)."""
        scores = self.model.logits(hidden)
        u = uniform(keys, slots.positions[:, None])
        tokens, logps = draw(nucleus(scores / self.temperature, self.top_p), u)
        if self.temperature != 1 or self.top_p < 1:
            logps = take(scores, tokens) - jax.nn.logsumexp(scores, axis=-1)
        samples = _append(slots.samples, slots.positions, tokens, logps, self.stop_tokens)
        return slots._replace(
            step=slots.step + 1, positions=slots.positions + 1, tokens=tokens, samples=samples
        )

    def over(self, slots: Slots) -> Array:
        """Return (groups,), True where every response has ended."""
        samples = slots.samples
        return jnp.all(samples.stopped | (samples.lengths == self.max_new_tokens), axis=1)

    def results(self, slots: Slots) -> Samples:
        """Return what was drawn, with the features."""
        if slots.sums is None:
            return slots.samples
        return slots.samples._replace(features=mean(slots.sums, slots.samples.lengths))


def _append(samples: Samples, positions: Array, tokens: Array, logps: Array, stop_tokens: Array) -> Samples:
    length = samples.tokens.shape[-1]
    # A step that only reads the last tokens, for their features, draws beyond the limit.
    alive = ~samples.stopped & (positions < length)[:, None]
    here = alive[..., None] & (jnp.arange(length) == positions[:, None, None])
    return Samples(
        tokens=jnp.where(here, tokens[..., None], samples.tokens),
        lengths=samples.lengths + alive,
        logps=jnp.where(here, logps[..., None], samples.logps),
        stopped=samples.stopped | (alive & jnp.isin(tokens, stop_tokens)),
    )


def _empty_samples(shape: tuple[int, int], length: int) -> Samples:
    zeros = partial(jnp.zeros, dtype=jnp.int32)
    return Samples(zeros((*shape, length)), zeros(shape), jnp.zeros((*shape, length)), jnp.zeros(shape, bool))
