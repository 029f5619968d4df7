"""Log-probs of given responses: R responses behind one shared prompt, the vocabulary in chunks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from cann_jax.models.attention import NEGATIVE, softcap
from cann_jax.models.attention_inputs import SequenceMask
from cann_jax.models.bfloat16_words import from_words, lookup, to_words
from cann_jax.models.decoder import Decoder
from cann_jax.models.linear import dense
from cann_jax.models.packing import Room, pack
from cann_jax.models.prefix import Prefix
from cann_jax.runtime.sharding import axis_size, constrain


def response_logps(
    model: Decoder, prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array, *,
    chunks: int, key: Array | None = None, rematerialise: str | None = None, prefix: Prefix | None = None,
    room: Room | None = None,
) -> Array:  # fmt: skip
    """Return log π(y|x) (B, R) float32 of R responses to each prompt, in nats.

    Args:
        model: The model.
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, R, T) ids, padded on the right, end token included.
        response_lengths: (B, R); only this many tokens count. Never derived from token ids.
        chunks: Number of chunks of the vocabulary; the logits of only one chunk exist at once.
        key: Dropout key of the adapters, or None.
        rematerialise: As in ``Decoder.forward``.
        prefix: Tokens before all prompts, which then hold at least one each; None for none.
        room: Rows that hold several prompts with their responses, which all fit and have no prefix; None
            computes one row a prompt, prompt and responses padded.
    """
    if room is not None:
        arrays = (prompts, prompt_lengths, responses, response_lengths)
        return _packed_logps(model, *arrays, room, chunks, key, rematerialise)
    arrays = (prompts, prompt_lengths, responses, response_lengths)
    before = predicting_states(model, *arrays, key=key, rematerialise=rematerialise, prefix=prefix)
    return logps_of_states(model, before, responses, response_lengths, chunks=chunks)


def predicting_states(
    model: Decoder, prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array, *,
    key: Array | None = None, rematerialise: str | None = None, prefix: Prefix | None = None,
) -> Array:  # fmt: skip
    """Return the final state (B, R, T, hidden) before each response token; arguments as above."""
    inside = jnp.arange(responses.shape[-1]) < response_lengths[..., None]
    hidden = _states(model, prompts, prompt_lengths, responses, inside, key, rematerialise, prefix)
    return _predicting(hidden, prompts.shape[1], prompt_lengths, responses.shape)


def logps_of_states(
    model: Decoder, before: Array, responses: Array, response_lengths: Array, *, chunks: int
) -> Array:
    """Return log π(y|x) (B, R) from the states ``predicting_states``."""
    inside = jnp.arange(responses.shape[-1]) < response_lengths[..., None]
    rows, cap = before.reshape(-1, before.shape[-1]), model.config.final_softcap
    logps = token_logps(rows, model.head, responses.reshape(-1), chunks, model.dtype, cap)
    return jnp.sum(jnp.where(inside, logps.reshape(responses.shape), 0), axis=-1)


def _packed_logps(
    model: Decoder, prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array,
    room: Room, chunks: int, key: Array | None, rematerialise: str | None,
) -> Array:  # fmt: skip
    rows = pack(prompts, prompt_lengths, responses, response_lengths, room)
    hidden = model.forward(rows.tokens, rows.positions, rows.mask, key, rematerialise)[0]
    before = jnp.take_along_axis(hidden, rows.before[..., None], axis=1).reshape(-1, hidden.shape[-1])
    cap = model.config.final_softcap
    logps = token_logps(before, model.head, rows.targets.reshape(-1), chunks, model.dtype, cap)
    own = rows.owners[..., None] == jnp.arange(rows.last.shape[1])
    sums = jnp.sum(jnp.where(own, logps.reshape(*rows.owners.shape, 1), 0), axis=1)
    return sums.reshape(response_lengths.shape)


def response_ends(
    model: Decoder, prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array, *,
    key: Array | None = None, rematerialise: str | None = None, room: Room | None = None,
) -> Array:  # fmt: skip
    """Return the state (B, R, hidden) at the last token of each response, which a score head reads.

    Arguments as ``response_logps``.
    """
    if room is not None:
        rows = pack(prompts, prompt_lengths, responses, response_lengths, room)
        hidden = model.forward(rows.tokens, rows.positions, rows.mask, key, rematerialise)[0]
        ends = jnp.take_along_axis(hidden, rows.last[..., None], axis=1)
        return ends.reshape(*response_lengths.shape, -1)
    inside = jnp.arange(responses.shape[-1]) < response_lengths[..., None]
    hidden = _states(model, prompts, prompt_lengths, responses, inside, key, rematerialise)
    own = hidden[:, prompts.shape[1] :].reshape(*responses.shape, -1)
    return jnp.take_along_axis(own, (response_lengths - 1)[..., None, None], axis=2)[:, :, 0]


def _states(
    model: Decoder, prompts: Array, prompt_lengths: Array, responses: Array, inside: Array,
    key: Array | None, rematerialise: str | None, prefix: Prefix | None = None,
) -> Array:  # fmt: skip
    """Return the final states of one sequence per prompt: the prompt, then its R responses.

    Each response starts at the position after the prompt, and sees the prompt and itself, never another
    response.
    """
    batch, count, length = responses.shape
    size = prompts.shape[1]
    prompt_positions = jnp.broadcast_to(jnp.arange(size), prompts.shape)
    response_positions = jnp.broadcast_to(prompt_lengths[:, None, None] + jnp.arange(length), responses.shape)
    flat = partial(jnp.reshape, shape=(batch, count * length))
    tokens = jnp.concatenate([prompts, flat(responses)], axis=1)
    positions = jnp.concatenate([prompt_positions, flat(response_positions)], axis=1)
    valid = jnp.concatenate([prompt_positions < prompt_lengths[:, None], flat(inside)], axis=1)
    segment = np.concatenate([np.zeros(size, int), 1 + np.repeat(np.arange(count), length)])
    related = (segment == 0) | (segment == segment[:, None])
    mask = SequenceMask(related & np.tri(len(segment), dtype=bool), valid)
    return model.forward(tokens, positions, mask, key, rematerialise, prefix=prefix)[0]


def _predicting(hidden: Array, size: int, prompt_lengths: Array, shape: tuple[int, ...]) -> Array:
    """Return the state (B, R, T, hidden) before each response token; before the first, the prompt's last."""
    batch, count, length = shape
    last = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)
    own = hidden[:, size:].reshape(batch, count, length, -1)[:, :, :-1]
    first = jnp.broadcast_to(last[:, None], (batch, count, 1, hidden.shape[-1]))
    return jnp.concatenate([first, own], axis=2)


def token_logps(
    hidden: Array, head: Array, targets: Array, chunks: int, dtype: DTypeLike, cap: float | None = None
) -> Array:
    """Return the float32 log-prob of each of n ``targets`` without the full logits.

    ``hidden`` is (n, hidden) and ``head`` (vocabulary, hidden). The log-sum-exp runs over chunks of the
    vocabulary, the last of them padded, with a running maximum; the backward pass computes each chunk again,
    so memory is targets × vocabulary / chunks in both directions.
    """
    vocabulary = head.shape[0]
    parts = chunks * axis_size("vocabulary_part")
    size = -(-vocabulary // parts) * parts // chunks
    rows = jnp.pad(to_words(head), ((0, size * chunks - vocabulary), (0, 0))).reshape(chunks, size, -1)
    rows = constrain(rows, "any", "vocabulary_part", "hidden")
    Carry = tuple[Array, Array]

    @jax.checkpoint
    def body(carry: Carry, chunk: tuple[Array, Array]) -> tuple[Carry, None]:
        largest, total = carry
        index, part = chunk
        scores = softcap(dense(hidden, from_words(part), dtype, True, ("vocabulary_part", "hidden")), cap)
        scores = jnp.where(index * size + jnp.arange(size) < vocabulary, scores, NEGATIVE)
        higher = jax.lax.stop_gradient(jnp.maximum(largest, jnp.max(scores, axis=-1)))
        total = total * jnp.exp(largest - higher) + jnp.sum(jnp.exp(scores - higher[:, None]), axis=-1)
        return (higher, total), None

    start = (jnp.full(hidden.shape[0], NEGATIVE), jnp.zeros(hidden.shape[0]))
    (largest, total), _ = jax.lax.scan(body, start, (jnp.arange(chunks), rows))
    factors = [x.astype(dtype).astype(jnp.float32) for x in (hidden, lookup(head, targets))]
    return softcap(jnp.sum(factors[0] * factors[1], axis=-1), cap) - largest - jnp.log(total)
