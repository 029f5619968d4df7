"""Linear layers: products with rounded factors and float32 sums, biases, and low-rank adapters."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.runtime.mesh import platform
from cann_jax.runtime.sharding import Axes, constrain

MATRIX_PRODUCT = "matrix_product"  # name under which rematerialisation may keep what linear layers give


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def dense(x: Array, kernel: Array, dtype: DTypeLike, transposed: bool = False, axes: Axes = ()) -> Array:
    """Return x (…, in) @ kernel (in, out): factors rounded to ``dtype``, sums and result float32.

    Besides being more exact, this is the only form for which XLA's CPU backend has a fast bfloat16 kernel
    (2.3 ms against 5.0 ms with a bfloat16 result, for 256 × 576 × 1536 on two Zen 4 cores).

    On a mesh the kernel is gathered over its hidden axis after it is rounded, so that half the bytes travel,
    in both passes. Otherwise XLA multiplies part by part as they arrive and adds up float32 results in
    memory: 105 of 485 GB a step of a 7B model on 16 chips. The kernel is (out, in) where ``transposed``;
    ``axes`` are its logical axes, () where it is small.
    """
    return _product(x, _gathered(kernel, dtype, axes), (-1, 1 if transposed else 0), dtype)


def _gathered(kernel: Array, dtype: DTypeLike, axes: Axes) -> Array:
    if not axes:
        return kernel
    return constrain(constrain(kernel.astype(dtype), *axes), *_without_hidden(axes))


def _without_hidden(axes: Axes) -> Axes:
    return tuple("any" if name == "hidden" else name for name in axes)


def _product(a: Array, b: Array, axes: tuple[int, int], dtype: DTypeLike) -> Array:
    contracting = ((axes[0] % a.ndim,), (axes[1] % b.ndim,))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), (contracting, ((), ())), preferred_element_type=jnp.float32
    )


Saved = tuple[Array, Array]


def _forward(x: Array, kernel: Array, dtype: DTypeLike, transposed: bool, axes: Axes) -> tuple[Array, Saved]:
    return dense(x, kernel, dtype, transposed, axes), (x, kernel)


def _backward(dtype: DTypeLike, transposed: bool, axes: Axes, saved: Saved, g: Array) -> Saved:
    x, kernel = saved
    rows, columns = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    factors = (columns, rows) if transposed else (rows, columns)
    kernel_gradient = _product(*factors, (0, 0), dtype).astype(kernel.dtype)
    kernel_gradient = constrain(kernel_gradient, *axes) if axes else kernel_gradient
    kernel = _gathered(kernel, dtype, axes)
    return _product(g, kernel, (-1, 0 if transposed else 1), dtype).astype(x.dtype), kernel_gradient


dense.defvjp(_forward, _backward)


def rounded(x: Array, dtype: DTypeLike) -> Array:
    """Return an activation between two products as it goes to memory: rounded like their factors.

    Not on a CPU, which has no bfloat16 but in products. Residual stream, norms, softmax and log-probs stay
    float32.
    """
    return x if platform() == "cpu" else x.astype(dtype)


class LoraParam(nnx.Param[Array]):
    """A weight of an adapter, which its type tells from base weights."""


class Lora(nnx.Module):
    """x ↦ (alpha/rank) · B A dropout(x) (Hu et al. 2021), which starts as PEFT's adapters do.

    A is uniform within ±1/√in, and B zero, so that a new adapter changes nothing. The size of A sets how far
    a step of B moves the update: only from the same start does a learning rate carry over from PEFT.
    """

    def __init__(self, sizes: tuple[int, ...], axes: Axes, config: LoraConfig, rngs: nnx.Rngs) -> None:
        self.axes = axes
        # PEFT calls this distribution kaiming_uniform with a = √5; its deviation is 1/√(3 · in).
        start = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.a = LoraParam(start(rngs.params(), (sizes[0], config.rank), jnp.float32))
        self.b = LoraParam(jnp.zeros((config.rank, sizes[1]), jnp.float32))
        self.scale, self.dropout = config.alpha / config.rank, config.dropout

    def __call__(self, x: Array, key: Array | None, dtype: DTypeLike) -> Array:
        """Return the update (…, out) of x (…, in); ``key`` switches dropout on."""
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        # Gathered before and after: where they are sharded, XLA takes the products apart into loops of sends,
        # 6,336 of them a step of a 7B model on 16 chips, for a thousandth of the bytes.
        inside, outside = _without_hidden(self.axes)
        a, b = constrain(self.a[...], inside, "rank"), constrain(self.b[...], "rank", outside)
        return dense(checkpoint_name(dense(x, a, dtype), MATRIX_PRODUCT), b, dtype) * self.scale


class Linear(nnx.Module):
    """x (…, in) ↦ x @ kernel (in, out), plus bias and adapter where the layer has them."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        axes: Axes,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        bias: bool,
        lora: LoraConfig | None,
    ) -> None:
        self.dtype, self.axes = dtype, axes
        self.kernel = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), sizes, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(sizes[1:], jnp.float32)) if bias else None)
        self.lora = nnx.data(None if lora is None else Lora(sizes, axes, lora, rngs))

    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """Return (…, out); ``key`` switches the adapter's dropout on."""
        y = rounded(dense(x, self.kernel[...], self.dtype, False, self.axes), self.dtype)
        y = y if self.bias is None else rounded(y + self.bias[...], self.dtype)
        y = y if self.lora is None else rounded(y + self.lora(x, key, self.dtype), self.dtype)
        # With the adapter's update: computed again, that took 3 % of a step of SmolLM2-135M on a CPU.
        kept: Array = checkpoint_name(y, MATRIX_PRODUCT)
        return kept
