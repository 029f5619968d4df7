"""The mesh that responses are sampled on: copies of the model on as few devices each as have room for it.

Each token reads every weight. Sharded over the batch's devices (fsdp), they are gathered for each token: 63.6
seconds a batch for Llama-7B on v5e:4x4, where the products take 0.6.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cann_jax.models.config import DecoderConfig
from cann_jax.runtime.devices import memory_of
from cann_jax.runtime.mesh import AXES, current_mesh, on_mesh
from cann_jax.runtime.sharding import RULES, axis_size, divides, parameter_axes, path_name

ROOM = 0.8  # of a device's memory for weights, caches and logits; the rest is for what is not counted


class Batch(NamedTuple):
    """Sizes of a batch: its prompts, responses to each, tokens of a prompt and of a response with padding.

    ``slots`` are the responses in progress at once, None where all are.
    """

    prompts: int
    responses: int
    width: int
    length: int
    slots: int | None = None

    @property
    def replaces(self) -> bool:
        """Whether responses wait for a slot."""
        return self.slots is not None and self.slots < self.prompts * self.responses

    @property
    def rows(self) -> int:
        """Responses in progress at once."""
        return self.slots if self.slots is not None and self.replaces else self.prompts * self.responses


@contextlib.contextmanager
def on_sampling_mesh(weights: Any, shape: DecoderConfig, batch: Batch) -> Iterator[None]:
    """Compute on the mesh for sampling, where it is another than the current one, and say which it is."""
    own, memory = current_mesh(), memory_of(_device())
    shared = None if own is None or memory is None else sharing(weights, shape, batch, own.size, memory)
    if own is None or shared is None:
        yield
        return
    copies = own.size // shared
    print(f"sampling from {in_words(copies, shared)}", flush=True)
    # The same order of devices, so that arrays can go from one mesh to the other.
    with on_mesh(Mesh(own.devices.reshape(copies, 1, shared), AXES, axis_types=own.axis_types)):
        yield


def _device() -> jax.Device:
    """Return a device of the current mesh."""
    mesh = current_mesh()
    device: jax.Device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return device


def in_words(copies: int, shared: int) -> str:
    """Return how many copies of the weights there are, and on how many devices each is, in words."""
    number = "1 copy" if copies == 1 else f"{copies} copies"
    return f"{number} of the weights, {'each ' * (copies > 1)}on {shared} device{'s' * (shared > 1)}"


def sharing(weights: Any, shape: DecoderConfig, batch: Batch, devices: int, memory: float) -> int | None:
    """Return the least number of devices, of this ``memory`` each, that can share a copy of the weights.

    It divides the model, as ``mesh.tensor`` does, and the copies divide the batch; None if there is none.
    """
    for shared in range(1, devices + 1):
        copies, rest = divmod(devices, shared)
        if rest or batch.prompts % copies or batch.rows % copies or not divides(shape, "tensor", shared):
            continue
        if bytes_needed(weights, shape, batch, copies, shared) <= ROOM * memory:
            return shared
    return None


def smaller_batch(weights: Any, shape: DecoderConfig, batch: Batch, times: float = 1.0) -> str:
    """Say which smaller batch fits, of those that the devices divide: the largest, or the least.

    ``times`` is how many times too large this one is, at least.
    """
    shards, memory = axis_size("batch"), memory_of(_device())
    name, most = ("slots", batch.rows) if batch.replaces else ("prompts", batch.prompts)
    smaller = [n for n in range(shards, most, shards) if most % n == 0]
    if not smaller:
        return "lower sample.responses or sample.max_new_tokens, or give the mesh more devices"
    sizes = {
        n: batch_bytes(weights, shape, batch._replace(**{name: n}), shards, axis_size("kv_heads"))
        for n in smaller
    }
    few = [n for n in smaller if n * times <= most]
    fitting = [n for n in few if memory is not None and sizes[n] <= ROOM * memory]
    setting = {"slots": "slots", "prompts": "prompts_per_batch"}[name]
    return f"lower sample.{setting} from {most} to {max(fitting, default=smaller[0])}"


def bytes_needed(weights: Any, shape: DecoderConfig, batch: Batch, copies: int, shared: int) -> float:
    """Return the bytes on a device: its part of the weights, and of the batch."""

    def held(path: Any, leaf: Any) -> float:
        split = any("tensor" in RULES[axis] for axis in parameter_axes(path_name(path)))
        return float(leaf.size * leaf.dtype.itemsize / (shared if split else 1))

    own = float(sum(jax.tree.leaves(jax.tree_util.tree_map_with_path(held, weights))))
    return own + batch_bytes(weights, shape, batch, copies, shared)


def batch_bytes(weights: Any, shape: DecoderConfig, batch: Batch, copies: int, shared: int) -> float:
    """Return the bytes of a device's part of the batch: keys and values, and logits."""
    itemsize: int = max(jax.tree.leaves(weights), key=lambda leaf: leaf.size).dtype.itemsize
    rows = batch.rows / copies
    tokens = batch.prompts / copies * batch.width + rows * batch.length
    if batch.replaces:  # each slot holds its prompt
        tokens += rows * batch.width
    cache = 2 * shape.layers * shape.kv_heads / shared * shape.head_dim * tokens * itemsize
    logits = 3 * 4 * rows * shape.vocabulary  # and their exponentials, in two shapes
    return cache + logits
