"""Attention from queries, keys and values, and the choice of the kernel that computes it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from cann_jax.files.errors import InputError
from cann_jax.models.splash import LANES, by_kv_head, splash_attention
from cann_jax.runtime.mesh import platform

NEGATIVE = -1e30  # finite, so that a fully masked (padding) row gives a uniform softmax instead of NaN
CUDNN_HEAD_DIM = 128  # what every GPU that has the kernel can do
KeyValue = tuple[Array, Array]


@dataclass(frozen=True)
class AttentionRule:
    """The static properties of a model's attention."""

    scale: float  # factor of the scores
    softcap: float | None  # c in c·tanh(score / c)
    kernel: str  # ``xla`` or ``cudnn`` of ``jax.nn.dot_product_attention``, or ``splash``
    dtype: DTypeLike  # of the factors of the products; scores and sums are float32


def choose_kernel(choice: str, dtype: DTypeLike, head_dim: int, softcap: float | None) -> str:
    """Return the kernel for whole sequences that ``model.attention`` names, with ``auto`` resolved.

    Raises:
        InputError: The kernel that was asked for cannot serve here.
    """
    cudnn, splash = _cudnn_obstacle(dtype, head_dim, softcap), _splash_obstacle(head_dim)
    obstacles = {"cudnn": cudnn, "splash": splash, "xla": None}
    if obstacles.get(choice):
        raise InputError(f"model.attention {choice} {obstacles[choice]}; use auto or xla")
    return next(name for name, obstacle in obstacles.items() if choice in ("auto", name) and not obstacle)


def _splash_obstacle(head_dim: int) -> str | None:
    if platform() != "tpu":
        return f"needs a TPU, and this is a {platform()}"
    if head_dim % LANES:
        return f"takes heads of a multiple of {LANES}, and this model's have {head_dim}"
    return None


def _cudnn_obstacle(dtype: DTypeLike, head_dim: int, softcap: float | None) -> str | None:
    if platform() != "gpu":
        return f"needs a GPU, and this is a {platform()}"
    if jnp.dtype(dtype) == jnp.float32:
        return "needs model.dtype bfloat16"
    if softcap is not None:
        return "has no soft-cap, which this model needs"
    if head_dim > CUDNN_HEAD_DIM or head_dim % 8:
        return f"takes heads up to {CUDNN_HEAD_DIM} in steps of 8, and this model's have {head_dim}"
    return None


def attend(rule: AttentionRule, q: Array, k: Array, v: Array, mask: Any) -> Array:
    """Return the attention (B, S, heads · head_dim) of sequences behind P tokens, of the factors' dtype.

    Args:
        rule: The model's.
        q: (B, S, heads, head_dim), rotated.
        k: (B, P + S, kv_heads, head_dim), rotated.
        v: (B, P + S, kv_heads, head_dim).
        mask: (B, S, P + S), True where the row may see the column; or, for splash, a ``SequenceMask``.
    """
    q, k, v = (x.astype(rule.dtype) for x in (q, k, v))
    if rule.kernel == "splash":
        out = splash_attention(q * rule.scale, k, v, mask, rule.softcap)
    else:
        out = (_cudnn if rule.kernel == "cudnn" else _plain)(rule, q, k, v, mask)
    return out.reshape(*out.shape[:2], -1).astype(rule.dtype)


# Recomputed in the backward pass, so that its weights are never kept; other kernels never make any.
@partial(jax.checkpoint, static_argnums=0)
def _plain(rule: AttentionRule, q: Array, k: Array, v: Array, mask: Array) -> Array:
    grouped = by_kv_head(q, k.shape[2])
    scores = _scores(rule, "bqhgd,bkhd->bhgqk", grouped, k, mask[:, None, None])
    return _dot(rule, "bhgqk,bkhd->bqhgd", jax.nn.softmax(scores, axis=-1), v)


def _cudnn(rule: AttentionRule, q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Return cuDNN's attention; its backward pass takes even lengths only, so a masked token is appended."""
    size = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    mask = jnp.pad(mask, ((0, 0), *((0, side % 2) for side in mask.shape[1:])))
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=rule.scale, implementation="cudnn")
    return out[:, :size]


def attend_shared(
    rule: AttentionRule, q: Array, prompt: KeyValue | None, own: KeyValue, mask: KeyValue
) -> Array:
    """Return the attention of one token of each of K responses over their shared prompt and their own past.

    The result is (B, K, heads · head_dim) float32.

    Args:
        rule: The model's.
        q: (B, K, heads, head_dim), rotated.
        prompt: Keys and values (B, P, kv_heads, head_dim), held once for all K; None where they are the
            first P of the response's own.
        own: Keys and values (B, K, kv_heads, T, head_dim), this token's already written.
        mask: (B, P), True where the token sees the prompt, and (B, T), where it sees its own past.
    """
    grouped, prompt_mask, own_mask = by_kv_head(q, own[0].shape[2]), *(x[:, None, None, None] for x in mask)
    scores = []
    if prompt is not None:
        scores.append(_scores(rule, "bkhgd,bphd->bkhgp", grouped, prompt[0], prompt_mask))
    else:
        own_mask = jnp.concatenate([prompt_mask, own_mask], axis=-1)
    scores.append(_scores(rule, "bkhgd,bkhtd->bkhgt", grouped, own[0], own_mask))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    shared, single = jnp.split(weights, [weights.shape[-1] - own_mask.shape[-1]], axis=-1)
    out = _dot(rule, "bkhgt,bkhtd->bkhgd", single, own[1])
    if prompt is not None:
        out += _dot(rule, "bkhgp,bphd->bkhgd", shared, prompt[1])
    return out.reshape(*q.shape[:2], -1)


def softcap(scores: Array, cap: float | None) -> Array:
    """Return cap · tanh(scores / cap), or the scores where ``cap`` is None."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def _scores(rule: AttentionRule, equation: str, q: Array, k: Array, mask: Array) -> Array:
    scores = softcap(_dot(rule, equation, q, k) * rule.scale, rule.softcap)
    return jnp.where(mask, scores, NEGATIVE)


def _dot(rule: AttentionRule, equation: str, a: Array, b: Array) -> Array:
    return _product(equation, rule.dtype, a, b)


# Without rules of its own the backward pass would multiply in float32 whatever the dtype: a step of bfloat16
# on two Zen 4 cores took 4 % longer at rows of 128 tokens, and more at longer ones.
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(equation: str, dtype: DTypeLike, a: Array, b: Array) -> Array:
    """Return an einsum of factors rounded to ``dtype``, in both passes; sums and result are float32."""
    return jnp.einsum(equation, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _forward(equation: str, dtype: DTypeLike, a: Array, b: Array) -> tuple[Array, KeyValue]:
    return _product(equation, dtype, a, b), (a, b)


def _backward(equation: str, dtype: DTypeLike, saved: KeyValue, g: Array) -> KeyValue:
    (a, b), (inputs, out) = saved, equation.split("->")
    first, second = inputs.split(",")
    of_a = _product(f"{out},{second}->{first}", dtype, g, b)
    return of_a.astype(a.dtype), _product(f"{out},{first}->{second}", dtype, g, a).astype(b.dtype)


_product.defvjp(_forward, _backward)
