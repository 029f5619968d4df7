"""Block-wise attention on TPU (Dao et al. 2022): JAX's splash kernel, which skips blocks that see nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cann_jax.models.attention_inputs import SequenceMask
from cann_jax.runtime.mesh import current_mesh, platform
from cann_jax.runtime.sharding import partition

LANES = 128  # of a TPU's vector unit
_Q_AXES, _KV_AXES = ("batch", "any", "heads", "any"), ("batch", "any", "kv_heads", "any")


def splash_attention(q: Array, k: Array, v: Array, mask: Array | SequenceMask, cap: float | None) -> Array:
    """Return the attention within sequences.

    XLA cannot partition a kernel by itself: each device takes its part of the batch and of the heads. Lengths
    are padded to whole blocks with tokens that see only themselves, and so is a prefix, which has keys but no
    queries. Arguments are those of ``attention.attend``, q scaled.
    """
    size = k.shape[1]
    before, padding = size - q.shape[1], -size % LANES
    q = jnp.pad(q, ((0, 0), (before, padding), (0, 0), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (k, v))
    places = np.arange(size + padding)
    alone = np.diag((places < before) | (places >= size))
    if isinstance(mask, SequenceMask):
        pattern = np.pad(mask.pattern, ((before, padding), (0, padding))) | alone
        seen = jnp.pad(mask.valid, ((0, 0), (0, padding)), constant_values=True)
        attend_here: Callable[..., Array] = partial(_by_pattern, pattern, cap)
        axes: tuple[str, ...] = ("batch", "any")
    else:
        seen = jnp.pad(mask, ((0, 0), (before, padding), (0, padding))) | alone
        attend_here, axes = partial(_by_mask, cap), ("batch", "any", "any")
    if current_mesh() is not None:
        parts = tuple(partition(each) for each in (_Q_AXES, _KV_AXES, _KV_AXES, axes))
        attend_here = jax.shard_map(attend_here, in_specs=parts, out_specs=parts[0], check_vma=False)
    return attend_here(q, k, v, seen)[:, before:size]


def _by_pattern(pattern: np.ndarray, cap: float | None, q: Array, k: Array, v: Array, valid: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    group = q.shape[2] // k.shape[2]
    kernel = _kernel(np.broadcast_to(pattern, (group, *pattern.shape)), cap)

    def one_sequence(q: Array, k: Array, v: Array, valid: Array) -> Array:
        # Two segments: the queries belong to the first, and so does what they may see.
        segments = splash.SegmentIds(jnp.zeros(valid.shape, jnp.int32), jnp.where(valid, 0, 1))
        out: Array = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
        return out

    return _over_batch(one_sequence, q, k, v, valid)


def _by_mask(cap: float | None, q: Array, k: Array, v: Array, mask: Array) -> Array:
    group = q.shape[2] // k.shape[2]

    def one_sequence(q: Array, k: Array, v: Array, mask: Array) -> Array:
        kernel = _kernel(jnp.broadcast_to(mask, (group, *mask.shape)), cap)
        # Made under a trace, its flags are arrays, which the kernel tests as plain booleans (JAX 0.10).
        for name in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
            info = getattr(kernel, name)
            setattr(kernel, name, info and info._replace(is_dynamic_mask=True))
        out: Array = jax.vmap(kernel)(q, k, v)
        return out

    return _over_batch(one_sequence, q, k, v, mask)


def _kernel(mask: np.ndarray | Array, cap: float | None) -> Any:
    """Return the kernel of one key-value head and the queries that share it; ``mask`` is (group, S, S)."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    block = max(b for b in (128, 256, 512) if mask.shape[-1] % b == 0)
    sides = [f"block_{side}_{part}" for side in ("q", "kv") for part in ("dkv", "dq")]
    backward: dict[str, Any] = dict.fromkeys(sides, block)
    return splash.make_splash_mqa_single_device(
        mask,
        block_sizes=splash.BlockSizes(block, block, block, **backward, block_kv_dkv_compute=block),
        attn_logits_soft_cap=cap,
        interpret=platform() == "cpu",  # for tests; ``choose_kernel`` refuses it there
    )


def _over_batch(one_sequence: Callable[..., Array], q: Array, k: Array, v: Array, seen: Array) -> Array:
    grouped = by_kv_head(q, k.shape[2]).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    out = jax.vmap(one_sequence)(grouped, k, v, seen)
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def by_kv_head(q: Array, kv_heads: int) -> Array:
    """Return (B, S, heads, head_dim) as (B, S, kv_heads, group, head_dim)."""
    return q.reshape(*q.shape[:2], kv_heads, q.shape[2] // kv_heads, q.shape[3])
