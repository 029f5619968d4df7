"""Weights from their readers into the decoder's stacked arrays, one tensor in memory at a time.

On a mesh each tensor goes straight into its shards: arrays are made on the devices, empty, and each layer's
tensor is written into its place there. Building the stacked array on the host first would hold all layers of
it at once, for a 7B model 5.8 GB instead of 0.2 GB.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.readers import Index, Reader, Readers
from cann_jax.models.files.weight_names import (
    ArrayPath,
    Shape,
    Weight,
    base_shapes,
    check_weights,
    fused_weights,
)

Shardings = Callable[[ArrayPath], NamedSharding]
Tensor = Callable[[Index], np.ndarray]  # reads the part of a layer's array at an index


def load_weights(
    readers: Readers, config: DecoderConfig, dtype: DTypeLike, source: str, shardings: Shardings | None = None
) -> dict[ArrayPath, Any]:
    """Return the base weights by their path, on the host or, with ``shardings``, on the devices.

    Args:
        readers: Reader of every tensor by Hugging Face name; with ``shardings``, only the parts that this
            process's devices hold are read.
        config: The decoder.
        dtype: Storage dtype of the matrices.
        source: Name of the source in errors.
        shardings: Sharding of the array at a path; its axis of layers must not be sharded.

    Raises:
        InputError: As ``check_weights``, before anything is read; or a tensor is quantized.
    """
    check_weights({name: reader.shape for name, reader in readers.items()}, config, source)
    shapes = base_shapes(config)
    state: dict[ArrayPath, Any] = {}
    for group in fused_weights(config):
        first = 0
        for weight in group:
            shape, storage = shapes[weight.path], jnp.dtype(jnp.float32 if weight.wide else dtype)
            rows = range(first, first + weight.on_disk_shape(shape)[0])
            read = partial(_read_part, weight, rows, source)
            tensors = [partial(read, name, readers[name]) for name in weight.names(config)]
            if shardings is None:
                state[weight.path] = _on_host(weight, tensors, shape, storage)
            else:
                state[weight.path] = _on_devices(weight, tensors, shape, storage, shardings(weight.path))
            first = rows.stop
    return state


def _read_part(
    weight: Weight, rows: range, source: str, name: str, reader: Reader, index: Index
) -> np.ndarray:
    """Return a layer's array at ``index``, from those rows of the tensor on disk that belong to the array."""
    wanted, *rest = reversed(index) if weight.transpose else index
    part = rows[wanted]
    tensor = reader((slice(part.start, part.stop), *rest))
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise InputError(
            f"{source}: {name} is {tensor.dtype}; quantized folders are not supported, use a plain one"
        )
    return tensor.T if weight.transpose else tensor


def _on_host(weight: Weight, tensors: Sequence[Tensor], shape: Shape, dtype: np.dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    layers = array if weight.stacked else array[None]
    for layer, tensor in zip(layers, tensors, strict=True):
        layer[...] = tensor((slice(None),) * layer.ndim)
    return array


def _on_devices(
    weight: Weight, tensors: Sequence[Tensor], shape: Shape, dtype: np.dtype, sharding: NamedSharding
) -> Array:
    def placed(tensor: Tensor, shape: Shape, sharding: NamedSharding) -> Array:
        def part(index: Any) -> np.ndarray:
            return tensor(index).astype(dtype)

        return jax.make_array_from_callback(shape, sharding, part, dtype=dtype)

    if not weight.stacked:
        return placed(tensors[0], shape, sharding)
    layer_sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stacked: Array = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)()
    for layer, tensor in enumerate(tensors):
        # Waited for, so that copies of many tensors do not queue up on the host.
        stacked = _write_layer(stacked, placed(tensor, shape[1:], layer_sharding), layer).block_until_ready()
    return stacked


@partial(jax.jit, donate_argnums=0)
def _write_layer(stacked: Array, values: Array, layer: Array) -> Array:
    updated: Array = jax.lax.dynamic_update_index_in_dim(stacked, values, layer, 0)
    return updated
