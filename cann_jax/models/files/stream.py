"""Weights from files straight into their shards: one tensor on the host at a time, whatever the model's size.

Arrays are made on the devices, empty, and each layer's tensor is written into its place there. Building the
stacked array on the host first would hold all layers of it at once, for a 7B model 5.8 GB in place of 0.2 GB.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.folder import Index, Reader, Readers
from cann_jax.models.files.weight_names import (
    Weight,
    base_shapes,
    check_floating,
    check_weights,
    fused_weights,
    names_of,
    on_disk_shape,
)

Shardings = Callable[[tuple[str, ...]], NamedSharding]


def stream_weights(
    readers: Readers, config: DecoderConfig, dtype, source: str, shardings: Shardings
) -> dict[tuple[str, ...], jax.Array]:
    """Flat state {path: array} of the base weights, on the devices.

    Args:
        readers: Of every tensor of the source, by Hugging Face name; only the parts that this process's
            devices hold are read.
        config: The decoder.
        dtype: Storage dtype of the matrices.
        source: What to call the source in an error.
        shardings: Where the array at a path goes; its axis of layers must be whole everywhere.

    Raises:
        InputError: as ``load_weights``, and before anything is read.
    """
    check_weights({name: reader.shape for name, reader in readers.items()}, config, source)
    shapes = base_shapes(config)
    state = {}
    for _, weights in fused_weights(config):
        first = 0
        for weight in weights:
            shape, storage = shapes[weight.path].shape, jnp.float32 if weight.wide else dtype
            rows = range(first, first + on_disk_shape(weight, shape)[0])
            tensors = [
                partial(_part, weight, readers[name], name, rows, storage, source)
                for name in names_of(weight, config)
            ]
            state[weight.path] = _placed(weight, tensors, shape, storage, shardings(weight.path))
            first = rows.stop
    return state


def _part(weight: Weight, reader: Reader, name: str, rows: range, dtype, source: str, index: Index):
    """What one device holds of a tensor: the array's ``index``, found on disk, turned and cast.

    Args:
        rows: Of the tensor on disk that belong to the array; a fused tensor holds several arrays.
    """
    wanted, *rest = reversed(index) if weight.transpose else index
    part = rows[wanted]
    tensor = reader((slice(part.start, part.stop), *rest))
    check_floating(name, tensor, source)
    return (tensor.T if weight.transpose else tensor).astype(dtype)


def _placed(
    weight: Weight, tensors: list, shape: tuple[int, ...], dtype, sharding: NamedSharding
) -> jax.Array:
    if "{layer}" not in weight.name:
        return jax.make_array_from_callback(shape, sharding, tensors[0], dtype=dtype)
    layer_sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stacked = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)()
    for layer, tensor in enumerate(tensors):
        values = jax.make_array_from_callback(shape[1:], layer_sharding, tensor, dtype=dtype)
        # Waited for, so that copies of many tensors do not queue up on the host.
        stacked = _write_layer(stacked, values, layer).block_until_ready()
    return stacked


@partial(jax.jit, donate_argnums=0)
def _write_layer(stacked, values, layer):
    return jax.lax.dynamic_update_index_in_dim(stacked, values, layer, 0)
