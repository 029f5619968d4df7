"""Settings with which a run fits given devices, from sizes alone: no device and no compiler.

Bytes of a training step are .88 to 1.37 times what the compiler needs, in the 38 rows of
benchmarks/results/compile.md that fit their slices, and the seconds .93 to 1.08 times the bound read from the
compiled program; the four that the compiler refuses do not fit here either. All of them are in bfloat16.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from cann_jax_tools.chips import Slice
from flax import nnx

from cann_jax.config.training import LoraConfig
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.flops import Row, layer_parameters, training_flops
from cann_jax.models.linear import LoraParam
from cann_jax.runtime.sharding import divides
from cann_jax.sampling.mesh import Batch, bytes_needed, sharing

ROOM = 0.85  # of the memory may be planned
ADAM = 3 * 4  # bytes a trained weight: itself and two moments in float32
GRADIENT = 4
Mesh = tuple[int, int, int]  # sizes of data, fsdp and tensor
Kept = Literal["everything", "elementwise"]  # as ``rematerialise``


class Step(NamedTuple):
    """Sizes of a training step: prompts, tokens of a prompt, responses to each and their tokens."""

    prompts: int
    width: int
    group: int
    length: int
    lora: LoraConfig | None
    chunks: int

    @property
    def row(self) -> Row:
        """A prompt with its responses."""
        return Row(self.width + self.group * self.length, self.group * self.length)


@dataclass(frozen=True)
class TrainingPlan:
    """A way to lay out a training step, with its bytes a device and a lower bound of its seconds."""

    data: int
    fsdp: int
    tensor: int
    accumulation: int
    rematerialise: Kept
    bytes: float
    seconds: float

    @property
    def mesh(self) -> Mesh:
        """Sizes of the mesh's axes."""
        return self.data, self.fsdp, self.tensor

    @property
    def order(self) -> tuple[float, ...]:
        """What makes a plan better: less time, and among equals fewer parts and less exchange."""
        return round(self.seconds, 4), self.accumulation, self.tensor, self.fsdp


@dataclass(frozen=True)
class SamplingPlan:
    """A batch of prompts to sample, on copies of the weights that ``shared`` devices each hold together."""

    prompts: int
    copies: int
    shared: int
    bytes: float
    seconds: float


def best_training(plans: Iterable[TrainingPlan], memory: float) -> TrainingPlan | None:
    """Return the fastest layout, by the bounds, of those that fit a device's memory; None if none does."""
    fitting = [plan for plan in plans if plan.bytes <= ROOM * memory]
    return min(fitting, key=lambda plan: plan.order, default=None)


def training_plans(shape: DecoderConfig, step: Step, where: Slice, dtype: str) -> Iterator[TrainingPlan]:
    """Yield all layouts that divide the model, the devices and the batch."""
    weights = _Weights.of(shape, step.lora, dtype)
    choices: tuple[Kept, ...] = ("elementwise", "everything")
    for tensor, fsdp in itertools.product(divisors(where.chips), repeat=2):
        data, rest = divmod(where.chips, tensor * fsdp)
        if rest or not divides(shape, "tensor", tensor) or not divides(shape, "fsdp", fsdp):
            continue
        rows, uneven = divmod(step.prompts, data * fsdp)
        if uneven:
            continue
        for parts in divisors(rows):
            for kept in choices:
                yield _plan(shape, step, where, weights, (data, fsdp, tensor), parts, kept)


def training_plan(
    shape: DecoderConfig, step: Step, where: Slice, dtype: str, mesh: Mesh, parts: int, kept: Kept
) -> TrainingPlan:
    """Return the layout on a mesh that divides model and batch, in ``parts`` micro-batches."""
    return _plan(shape, step, where, _Weights.of(shape, step.lora, dtype), mesh, parts, kept)


def _plan(
    shape: DecoderConfig, step: Step, where: Slice, weights: "_Weights", mesh: Mesh, parts: int, kept: Kept
) -> TrainingPlan:
    data, fsdp, _ = mesh
    needed = _bytes(shape, step, weights, mesh, step.prompts // (data * fsdp * parts), kept)
    return TrainingPlan(*mesh, parts, kept, needed, _seconds(shape, step, weights, mesh, parts, kept, where))


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, the least first."""
    return [each for each in range(1, number + 1) if number % each == 0]


class _Weights(NamedTuple):
    """Frozen and trained weights of a model, in bytes and in numbers, and the dtype of its products.

    Weights are gathered in it, and what lies between two products is kept in it.
    """

    frozen_bytes: float
    trained: int
    dtype: str

    @property
    def itemsize(self) -> int:
        """Bytes of a number of that dtype."""
        return int(jnp.dtype(self.dtype).itemsize)

    @classmethod
    def of(cls, shape: DecoderConfig, lora: LoraConfig | None, dtype: str) -> "_Weights":
        decoder = abstract_decoder(shape, dtype, lora, wide=lora is None)
        _, trained, frozen = nnx.split(decoder, nnx.Param if lora is None else LoraParam, ...)
        return cls(bytes_of(frozen), sum(leaf.size for leaf in jax.tree.leaves(trained)), dtype)


def bytes_of(weights: Any) -> float:
    """Return the bytes of all arrays, or shapes of arrays, of a tree."""
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)))


def _bytes(shape: DecoderConfig, step: Step, weights: _Weights, mesh: Mesh, rows: int, kept: Kept) -> float:
    """Return a device's bytes: weights and optimizer, what layers keep, the work of one, the head's chunk."""
    (_, fsdp, tensor), itemsize = mesh, weights.itemsize
    own = (weights.frozen_bytes + (ADAM + GRADIENT) * weights.trained) / (fsdp * tensor)
    # A layer's weights are gathered, and in full training so are their gradients, before they are shared out.
    gathered = itemsize * layer_parameters(shape) / tensor if fsdp > 1 else 0.0
    layer = gathered * (1 if step.lora is not None else 2)
    tokens = rows * step.row.length
    residual = 4 * shape.layers * tokens * shape.hidden
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    products = heads + 2 * shape.hidden + 2 * shape.intermediate
    if kept == "elementwise":
        residual += itemsize * shape.layers * tokens * products / tensor
    work = itemsize * tokens * (3 * shape.intermediate + 4 * heads) / tensor + 12 * tokens * shape.hidden
    chunk = shape.vocabulary / step.chunks
    head = 2 * 4 * rows * step.row.predicted * chunk / tensor + 2 * itemsize * chunk * shape.hidden
    return own + layer + residual + work + head


def _seconds(
    shape: DecoderConfig, step: Step, weights: _Weights, mesh: Mesh, parts: int, kept: Kept,
    where: Slice,
) -> float:  # fmt: skip
    """Return the longer of the products' time at peak and of the exchange's, each as if it were alone."""
    data, fsdp, tensor = mesh
    full = step.lora is None
    again = 1 if kept == "everything" else 0
    passes = (
        3 if full else 2
    )  # forward; backward, of which full training has two products for each forward one
    flops = step.prompts * training_flops(shape, step.row, all_weights=full) * (passes + again) / passes
    weight_bytes = weights.frozen_bytes + (weights.itemsize * weights.trained if full else 0)
    gathered = (2 + again) * parts * weight_bytes / tensor * (fsdp - 1) / fsdp
    gradients = GRADIENT * weights.trained / tensor * ((fsdp - 1) / fsdp + 2 * (data - 1) / data / fsdp)
    rows = step.prompts / (data * fsdp)
    sums = 2 * (2 + again) * 2 * shape.layers * weights.itemsize * rows * step.row.length * shape.hidden
    exchanged = gathered + gradients + sums * (tensor - 1) / tensor
    busy = flops / (where.chips * where.chip.peak(weights.dtype))
    return float(max(busy, exchanged / where.interconnect if where.chips > 1 else 0.0))


def best_sampling(
    shape: DecoderConfig, batch: Batch, multiple: int, where: Slice, dtype: str
) -> SamplingPlan | None:
    """Return the batch that takes least time a prompt, by the bounds; None if none fits.

    ``batch.prompts`` is the most prompts; a batch has a multiple of ``multiple``, and no fewer.
    """
    sizes = [multiple << power for power in range(31) if multiple << power <= max(batch.prompts, multiple)]
    plans = (sampling_plan(shape, batch._replace(prompts=size), where, dtype) for size in sizes)
    found = [plan for plan in plans if plan is not None]
    return min(found, key=lambda plan: plan.seconds / plan.prompts, default=None)


def sampling_plan(shape: DecoderConfig, batch: Batch, where: Slice, dtype: str) -> SamplingPlan | None:
    """Return how a run lays out the batch, whose every token reads what its device holds; None if none fits.

    Every response is taken to have its most tokens.
    """
    weights = model_weights(shape, dtype)
    shared = sharing(weights, shape, batch, where.chips, where.chip.memory)
    if shared is None:
        return None
    copies = where.chips // shared
    held = bytes_needed(weights, shape, batch, copies, shared)
    flops = 2 * (shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden) / shared
    each = max(held / where.chip.memory_bandwidth, batch.rows / copies * flops / where.chip.peak(dtype))
    turns = batch.prompts * batch.responses / batch.rows
    return SamplingPlan(batch.prompts, copies, shared, held, turns * batch.length * each)


@cache
def model_weights(shape: DecoderConfig, dtype: str) -> Any:
    """Return the weights of a model that is not trained, with shapes instead of arrays."""
    return nnx.split(abstract_decoder(shape, dtype, None))[1]
