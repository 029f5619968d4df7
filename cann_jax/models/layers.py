"""The parts of a decoder block: linear layer with optional adapter, norm, attention, gated MLP."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from cann_jax.config.training import LoraConfig
from cann_jax.models.attention import Rule, attend, attend_shared
from cann_jax.models.config import DecoderConfig
from cann_jax.models.rope import rotate
from cann_jax.runtime.mesh import platform
from cann_jax.runtime.sharding import LINEARS, Axes, constrain

MATRIX_PRODUCT = "matrix_product"  # name under which rematerialisation may keep a linear layer's result
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dense(x: jax.Array, kernel: jax.Array, dtype, transposed: bool = False, axes: Axes = ()) -> jax.Array:
    """x (…, in) @ kernel (in, out): factors rounded to ``dtype``, sums and result float32, backward alike.

    Besides being more exact, this is the only form for which XLA's CPU backend has a fast bfloat16 kernel
    (2.3 ms against 5.0 ms with a bfloat16 result, for 256 × 576 × 1536 on two Zen 4 cores).

    On a mesh the kernel is gathered over its hidden axis after it is rounded, so that half the bytes travel,
    in both passes. Left to itself, XLA multiplies part by part as they arrive and adds up float32 results in
    memory: 105 of 485 GB a step of a 7B model on 16 chips.

    Args:
        x: (…, in).
        kernel: (in, out), or (out, in) where ``transposed``.
        dtype: Of the factors.
        transposed: How the kernel is stored.
        axes: Logical axes of the kernel; () where it is small.
    """
    return _product(x, _gathered(kernel, dtype, axes), (-1, 1 if transposed else 0), dtype)


def _gathered(kernel: jax.Array, dtype, axes: Axes) -> jax.Array:
    if not axes:
        return kernel
    kernel = constrain(kernel.astype(dtype), *axes)
    return constrain(kernel, *without_hidden(axes))


def without_hidden(axes: Axes) -> Axes:
    """Of a weight gathered over its hidden axis."""
    return tuple("any" if name == "hidden" else name for name in axes)


def _product(a, b, axes, dtype):
    contracting = ((axes[0] % a.ndim,), (axes[1] % b.ndim,))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), (contracting, ((), ())), preferred_element_type=jnp.float32
    )


def _dense_forward(x, kernel, dtype, transposed, axes):
    return dense(x, kernel, dtype, transposed, axes), (x, kernel)


def _dense_backward(dtype, transposed, axes, saved, g):
    x, kernel = saved
    rows, columns = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    factors = (columns, rows) if transposed else (rows, columns)
    kernel_gradient = _product(*factors, (0, 0), dtype).astype(kernel.dtype)
    kernel_gradient = constrain(kernel_gradient, *axes) if axes else kernel_gradient
    kernel = _gathered(kernel, dtype, axes)
    return _product(g, kernel, (-1, 0 if transposed else 1), dtype).astype(x.dtype), kernel_gradient


dense.defvjp(_dense_forward, _dense_backward)


def kept(x: jax.Array, dtype) -> jax.Array:
    """An activation between two products, as it goes to memory: rounded like their factors, save on a CPU,
    which has no bfloat16 but in products. Residual stream, norms, softmax and log-probs stay float32.
    """
    return x if platform() == "cpu" else x.astype(dtype)


class LoraParam(nnx.Param):
    """A weight of an adapter, told apart from base weights by its type."""


class Lora(nnx.Module):
    """x ↦ (alpha/rank) · B A dropout(x) (Hu et al. 2021); B starts at zero and changes nothing."""

    def __init__(self, features_in: int, features_out: int, config: LoraConfig, rngs: nnx.Rngs, axes: Axes):
        self.axes = axes
        a = nnx.initializers.he_uniform()(rngs.params(), (features_in, config.rank), jnp.float32)
        self.a = LoraParam(a)
        self.b = LoraParam(jnp.zeros((config.rank, features_out), jnp.float32))
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def __call__(self, x: jax.Array, key: jax.Array | None, dtype) -> jax.Array:
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        # Whole before and after: where they are shared out, XLA takes the products apart into loops of sends,
        # 6,336 of them a step of a 7B model on 16 chips, for a thousandth of the bytes.
        inside, outside = without_hidden(self.axes)
        a, b = constrain(self.a[...], inside, "rank"), constrain(self.b[...], "rank", outside)
        return dense(dense(x, a, dtype), b, dtype) * self.scale


class Linear(nnx.Module):
    """x (…, in) ↦ x @ kernel (in, out), plus bias and adapter where there are such."""

    def __init__(
        self, sizes: tuple[int, int], lora: LoraConfig | None, dtype, rngs: nnx.Rngs, axes: Axes, bias=False
    ):
        self.dtype, self.axes = dtype, axes
        features_in, features_out = sizes
        init = nnx.initializers.normal(0.02)
        self.kernel = nnx.Param(init(rngs.params(), (features_in, features_out), jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros((features_out,), jnp.float32)) if bias else None)
        self.lora = nnx.data(None if lora is None else Lora(features_in, features_out, lora, rngs, axes))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        y = kept(dense(x, self.kernel[...], self.dtype, False, self.axes), self.dtype)
        y = checkpoint_name(y, MATRIX_PRODUCT)
        y = y if self.bias is None else kept(y + self.bias[...], self.dtype)
        return y if self.lora is None else kept(y + self.lora(x, key, self.dtype), self.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) · (scale + offset) (Zhang and Sennrich 2019)."""

    def __init__(self, features: int, epsilon: float, offset: float):
        self.scale = nnx.Param(jnp.full((features,), 1 - offset, jnp.float32))
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        x, scale = x.astype(jnp.float32), self.scale[...] + self.offset
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023)."""

    def __init__(
        self, config: DecoderConfig, lora: dict[str, LoraConfig], dtype, implementation: str, rngs: nnx.Rngs
    ):
        self.head_dim, self.qk_norm = config.head_dim, config.qk_norm
        self.rule = Rule(config.attention_scale, config.attention_softcap, implementation, dtype)
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        linear = _linears(config, lora, dtype, rngs)
        self.q_proj, self.k_proj = linear("q_proj", config.hidden, q), linear("k_proj", config.hidden, kv)
        self.v_proj, self.o_proj = linear("v_proj", config.hidden, kv), linear("o_proj", q, config.hidden)
        widths = {None: (), "head": (self.head_dim, self.head_dim), "projection": (q, kv)}[config.qk_norm]
        norms = [RMSNorm(width, config.norm_epsilon, config.norm_offset) for width in widths]
        self.q_norm, self.k_norm = (nnx.data(norm) for norm in norms or (None, None))

    def project(self, x, tables, keys):
        """Rotated q (…, heads, head_dim), rotated k and plain v (…, kv_heads, head_dim) of x (…, hidden)."""
        x = kept(x, self.rule.dtype)
        q = self._heads(self.q_proj(x, keys[0]), self.q_norm)
        k = self._heads(self.k_proj(x, keys[1]), self.k_norm)
        v = self._heads(self.v_proj(x, keys[2]), None)
        # XLA would leave out the rounding before a product's result is rotated in float32, and store that.
        q, k = jax.lax.optimization_barrier((q, k))
        q, k, v = rotate(q, tables), rotate(k, tables), v
        return _by_heads(q, "heads"), _by_heads(k, "kv_heads"), _by_heads(v, "kv_heads")

    def _heads(self, x, norm: RMSNorm | None):
        """(…, width) as (…, heads, head_dim), normed in one shape or the other."""
        if self.qk_norm == "projection" and norm is not None:
            x, norm = norm(x), None
        x = x.reshape(*x.shape[:-1], -1, self.head_dim)
        return x if norm is None else norm(x)

    def __call__(self, x, tables, mask, keys):
        """x (B, S, hidden), mask (B, S, S) True where row may see column. Returns the output and (k, v)."""
        q, k, v = self.project(x, tables, keys)
        return self.o_proj(attend(self.rule, q, k, v, mask), keys[3]), (k, v)

    def shared(self, q, prompt, prompt_mask, own, own_mask):
        """The output for one token of each of K responses; as ``attend_shared``."""
        return self.o_proj(attend_shared(self.rule, q, prompt, prompt_mask, own, own_mask))


def _by_heads(x: jax.Array, heads: str) -> jax.Array:
    return constrain(x, "batch", "any", heads, "any")


class MLP(nnx.Module):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, lora: dict[str, LoraConfig], dtype, rngs: nnx.Rngs):
        linear = _linears(config, lora, dtype, rngs)
        self.gate_proj = linear("gate_proj", config.hidden, config.intermediate)
        self.up_proj = linear("up_proj", config.hidden, config.intermediate)
        self.down_proj = linear("down_proj", config.intermediate, config.hidden)
        self.activation, self.dtype = config.activation, dtype

    def __call__(self, x: jax.Array, keys) -> jax.Array:
        x = kept(x, self.dtype)
        gate, up = (y.astype(jnp.float32) for y in (self.gate_proj(x, keys[0]), self.up_proj(x, keys[1])))
        gated = kept(ACTIVATIONS[self.activation](gate) * up, self.dtype)
        gated = constrain(gated, "batch", "any", "intermediate")
        return constrain(self.down_proj(gated, keys[2]), "batch", "any", "any")


def _linears(config: DecoderConfig, lora: dict[str, LoraConfig], dtype, rngs: nnx.Rngs):
    """Makes linear layers by name, with the adapter and bias that the name asks for."""
    return lambda name, features_in, features_out: Linear(
        (features_in, features_out), lora.get(name), dtype, rngs, LINEARS[name], name in config.biases
    )
