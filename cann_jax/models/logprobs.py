"""Log-probs of given responses: R responses behind one shared prompt, the vocabulary in chunks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.models.attention import NEGATIVE, softcap
from cann_jax.models.bfloat16_words import pack, rows_of, unpack
from cann_jax.models.layers import dense
from cann_jax.models.splash import Sight
from cann_jax.runtime.sharding import axis_size, constrain


def response_logps(
    model, prompts, prompt_lengths, responses, response_lengths, *, chunks: int, key=None, rematerialise=None
) -> jax.Array:
    """log π(y|x) of R responses to each prompt, in nats; prompt and responses are one packed sequence.

    Args:
        model: A ``Decoder``.
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, R, T) ids, padded on the right, end token included.
        response_lengths: (B, R); only the first so many tokens count. Never read off token ids.
        chunks: Parts in which the vocabulary is taken; the logits of a part are all that exists at once.
        key: Dropout key of the adapters, or None.
        rematerialise: As ``Decoder.hidden_states``.

    Returns:
        (B, R) float32 sums over the tokens of each response.
    """
    inside = jnp.arange(responses.shape[-1]) < response_lengths[..., None]
    tokens, positions, sight = _packed(prompts, prompt_lengths, responses, inside)
    hidden = model.hidden_states(tokens, positions, sight, key=key, rematerialise=rematerialise)
    before = _predicting(hidden, prompts.shape[1], prompt_lengths, responses.shape)
    rows, cap = before.reshape(-1, hidden.shape[-1]), model.config.final_softcap
    logps = token_logps(rows, model.head, responses.reshape(-1), chunks, model.dtype, cap)
    return jnp.sum(jnp.where(inside, logps.reshape(responses.shape), 0), axis=-1)


def response_ends(
    model, prompts, prompt_lengths, responses, response_lengths, *, key=None, rematerialise=None
) -> jax.Array:
    """The state that a score head reads: (B, R, hidden), at the last token of each response.

    Args: as ``response_logps``.
    """
    inside = jnp.arange(responses.shape[-1]) < response_lengths[..., None]
    tokens, positions, sight = _packed(prompts, prompt_lengths, responses, inside)
    hidden = model.hidden_states(tokens, positions, sight, key=key, rematerialise=rematerialise)
    own = hidden[:, prompts.shape[1] :].reshape(*responses.shape, -1)
    return jnp.take_along_axis(own, (response_lengths - 1)[..., None, None], axis=2)[:, :, 0]


def _packed(prompts, prompt_lengths, responses, inside):
    """One sequence a prompt: the prompt, then its R responses side by side, each at the next positions.

    A response sees the prompt and itself, never another response.
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
    return tokens, positions, Sight(related & np.tri(len(segment), dtype=bool), valid)


def _predicting(hidden, size: int, prompt_lengths, shape):
    """(B, R, T, hidden): the state before each response token; before the first, the prompt's last."""
    batch, count, length = shape
    last = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)
    own = hidden[:, size:].reshape(batch, count, length, -1)[:, :, :-1]
    return jnp.concatenate(
        [jnp.broadcast_to(last[:, None], (batch, count, 1, hidden.shape[-1])), own], axis=2
    )


def token_logps(hidden, head, targets, chunks: int, dtype, cap: float | None = None) -> jax.Array:
    """float32 log-prob of each target, without the full logits.

    The log-sum-exp runs over chunks of the vocabulary with a running maximum; the backward pass computes each
    chunk again, so memory is targets × vocabulary / chunks in both directions.

    Args:
        hidden: (n, hidden).
        head: (vocabulary, hidden).
        targets: (n,) ids.
        chunks: Number of chunks; the last is filled up with rows that have no weight.
        dtype: Of the factors.
        cap: Soft-cap of the logits, or None.
    """
    vocabulary = head.shape[0]
    parts = chunks * axis_size("vocabulary_part")
    size = -(-vocabulary // parts) * parts // chunks
    rows = jnp.pad(pack(head), ((0, size * chunks - vocabulary), (0, 0))).reshape(chunks, size, -1)
    rows = constrain(rows, "any", "vocabulary_part", "hidden")

    @jax.checkpoint
    def body(carry, chunk):
        largest, total = carry
        index, part = chunk
        scores = softcap(dense(hidden, unpack(part), dtype, True, ("vocabulary_part", "hidden")), cap)
        scores = jnp.where(index * size + jnp.arange(size) < vocabulary, scores, NEGATIVE)
        higher = jax.lax.stop_gradient(jnp.maximum(largest, jnp.max(scores, axis=-1)))
        total = total * jnp.exp(largest - higher) + jnp.sum(jnp.exp(scores - higher[:, None]), axis=-1)
        return (higher, total), None

    start = (jnp.full(hidden.shape[0], NEGATIVE), jnp.zeros(hidden.shape[0]))
    (largest, total), _ = jax.lax.scan(body, start, (jnp.arange(chunks), rows))
    chosen = rows_of(head, targets)
    rounded = [x.astype(dtype).astype(jnp.float32) for x in (hidden, chosen)]
    return softcap(jnp.sum(rounded[0] * rounded[1], axis=-1), cap) - largest - jnp.log(total)
