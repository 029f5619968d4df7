"""Block-wise attention on TPU (Dao et al. 2022): JAX's splash kernel, which leaves out what sees nothing."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.runtime.mesh import current_mesh, platform
from cann_jax.runtime.sharding import partition

LANES = 128  # of a TPU's vector unit
_Q_AXES, _KV_AXES = ("batch", "any", "heads", "any"), ("batch", "any", "kv_heads", "any")


@dataclass(frozen=True)
class Sight:
    """Which tokens a token sees: known before any data is, save for what is padding.

    The kernel's tables of blocks are then made once, while tracing. Of a mask that is data they are made anew
    in every layer, hold every block, and the kernel takes one sequence after the other.

    Args:
        order: (S, S), True where the row may see the column; a row sees itself.
        valid: (B, S), True where a token stands; every row of ``order`` has a valid column.
    """

    order: np.ndarray
    valid: jax.Array

    @property
    def mask(self) -> jax.Array:
        """(B, S, S), True where the row sees the column."""
        return jnp.asarray(self.order)[None] & self.valid[:, None, :]


def splash_attention(q, k, v, mask, cap: float | None):
    """Attention within whole sequences.

    XLA cannot share a kernel out by itself: each device takes its part of the batch and of the heads. Lengths
    are filled up to whole blocks by tokens that see themselves alone.

    Args:
        q: (B, S, heads, head_dim), rotated and scaled.
        k: (B, S, kv_heads, head_dim), rotated.
        v: (B, S, kv_heads, head_dim).
        mask: A ``Sight``, or (B, S, S) True where the row may see the column.
        cap: c in c·tanh(score / c), or None.

    Returns:
        (B, S, heads, head_dim).
    """
    size = q.shape[1]
    padding = -size % LANES
    q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
    alone = np.diag(np.arange(size + padding) >= size)
    if isinstance(mask, Sight):
        order = np.pad(mask.order, (0, padding)) | alone
        seen = jnp.pad(mask.valid, ((0, 0), (0, padding)), constant_values=True)
        attend_here, axes = partial(_by_order, order, cap), ("batch", "any")
    else:
        seen = jnp.pad(mask, ((0, 0), (0, padding), (0, padding))) | alone
        attend_here, axes = partial(_by_mask, cap), ("batch", "any", "any")
    if current_mesh() is not None:
        parts = tuple(partition(each) for each in (_Q_AXES, _KV_AXES, _KV_AXES, axes))
        attend_here = jax.shard_map(
            attend_here, in_specs=parts, out_specs=partition(_Q_AXES), check_vma=False
        )
    return attend_here(q, k, v, seen)[:, :size]


def _by_order(order: np.ndarray, cap: float | None, q, k, v, valid):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    group = q.shape[2] // k.shape[2]
    kernel = _kernel(np.broadcast_to(order, (group, *order.shape)), cap)

    def one_sequence(q, k, v, valid):
        # Two segments: the queries are of the first, and so is what they may see.
        segments = splash.SegmentIds(jnp.zeros(valid.shape, jnp.int32), jnp.where(valid, 0, 1))
        return jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)

    return _over_batch(one_sequence, q, k, v, valid)


def _by_mask(cap: float | None, q, k, v, mask):
    group = q.shape[2] // k.shape[2]

    def one_sequence(q, k, v, mask):
        kernel = _kernel(jnp.broadcast_to(mask, (group, *mask.shape)), cap)
        # Made under a trace, its flags are arrays, and it asks them as plain numbers (JAX 0.10).
        for name in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
            info = getattr(kernel, name)
            setattr(kernel, name, info and info._replace(is_dynamic_mask=True))
        return jax.vmap(kernel)(q, k, v)

    return _over_batch(one_sequence, q, k, v, mask)


def _kernel(mask, cap: float | None):
    """Of one key-value head and the queries that share it; ``mask`` (group, S, S)."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    block = max(b for b in (128, 256, 512) if mask.shape[-1] % b == 0)
    backward = {f"block_{side}_{part}": block for side in ("q", "kv") for part in ("dkv", "dq")}
    return splash.make_splash_mqa_single_device(
        mask,
        block_sizes=splash.BlockSizes(block, block, block, **backward, block_kv_dkv_compute=block),
        attn_logits_soft_cap=cap,
        interpret=platform() == "cpu",  # for tests: a configuration cannot ask for it there
    )


def _over_batch(one_sequence, q, k, v, seen):
    grouped = by_kv_head(q, k.shape[2]).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    out = jax.vmap(one_sequence)(grouped, k, v, seen)
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def by_kv_head(q, kv_heads: int):
    """(B, S, heads, head_dim) as (B, S, kv_heads, group, head_dim)."""
    return q.reshape(*q.shape[:2], kv_heads, q.shape[2] // kv_heads, q.shape[3])
