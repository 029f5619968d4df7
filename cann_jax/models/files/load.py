"""Decoders with the weights of a model's files, one tensor in memory at a time, or with shapes alone.

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
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.models.bfloat16_words import to_words, word_type
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files import weight_names
from cann_jax.models.files.folder import Index, Reader, Readers
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import ArrayPath, Shape, Weight, flat_state
from cann_jax.models.linear import LoraParam
from cann_jax.runtime.sharding import parameter_sharding

HEAD_ROWS = 8192  # compared at a time, 64 MB for a width of 4096 in 16 bits
Shardings = Callable[[ArrayPath], NamedSharding]
Tensor = Callable[[Index], np.ndarray]  # reads the part of a layer's array at an index


def load_decoder(
    files: ModelFiles, dtype: str, lora: LoraConfig | None = None, *,
    seed: int = 0, wide: bool = False, attention: str = "auto", shardings: Shardings | None = None,
) -> Decoder:  # fmt: skip
    """Read the weights into a decoder; bfloat16 ones as words where ``bfloat16_words`` has them.

    Args:
        files: The opened model.
        dtype: Compute dtype.
        lora: New adapters to add (B = 0), or None.
        seed: Seed of the adapters' initial A.
        wide: Whether to store matrices in float32 whatever the compute dtype (full fine-tuning needs it).
        attention: Kernel, as ``model.attention``.
        shardings: Sharding of each array by its path in the decoder's state, not over its axis of layers;
            only what this process's devices hold is read. None: that of the mesh in use.

    Raises:
        InputError: ``attention`` cannot serve here, or weights are missing, unexpected, of another shape or
            of a type that cannot be read.
    """
    shardings = parameter_sharding() if shardings is None else shardings
    base = _load_weights(files.readers, files.config, _storage(dtype, wide), str(files.path), shardings)
    decoder = abstract_decoder(files.config, dtype, lora, wide=wide, attention=attention)
    graph, *states = nnx.split(decoder, LoraParam, ...)
    adapters, rest = states
    if lora is not None:
        adapters = new_adapters(seed, files.config, lora)
    if shardings is not None:
        for path, leaf in flat_state(adapters):
            leaf.set_value(jax.device_put(leaf[...], shardings(path)))
    for path, leaf in flat_state(rest):
        leaf.set_value(to_words(jnp.asarray(base.pop(path))))
    return nnx.merge(graph, adapters, rest)


def new_adapters(seed: int, config: DecoderConfig, lora: LoraConfig) -> Any:
    """Return the state of adapters that add nothing yet: A drawn by the seed, B zero."""
    return _new_adapters(jax.random.key(seed), config, lora)


@partial(jax.jit, static_argnames=("config", "lora"))
def _new_adapters(key: Array, config: DecoderConfig, lora: LoraConfig) -> Any:
    # Jitted whole, so that XLA drops the base weights that a plain construction would draw too.
    return nnx.state(Decoder(config, lora=lora, rngs=nnx.Rngs(key)), LoraParam)


def abstract_decoder(
    config: DecoderConfig, dtype: str, lora: LoraConfig | None, *, wide: bool = False, attention: str = "auto"
) -> Decoder:
    """Return the decoder that ``load_decoder`` makes, with shapes instead of arrays."""
    decoder = nnx.eval_shape(lambda: Decoder(config, jnp.dtype(dtype), lora, attention, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(decoder)
    narrow = {weight.path for weight in weight_names.expected_weights(config) if not weight.wide}
    for path, leaf in flat_state(state):
        if path in narrow:
            leaf.set_value(jax.ShapeDtypeStruct(leaf.shape, word_type(_storage(dtype, wide))))
    return nnx.merge(graph, state)


def _storage(dtype: str, wide: bool) -> Any:
    """Return the dtype in which matrices are kept."""
    return jnp.dtype("float32" if wide else dtype)


def _load_weights(
    readers: Readers, config: DecoderConfig, dtype: DTypeLike, source: str, shardings: Shardings | None
) -> dict[ArrayPath, Any]:
    """Return the base weights by their path, on the host or, with ``shardings``, on the devices."""
    weight_names.check_weights({name: reader.shape for name, reader in readers.items()}, config, source)
    _check_tied_head(readers, config, source)
    shapes = weight_names.base_shapes(config)
    state: dict[ArrayPath, Any] = {}
    for group in weight_names.fused_weights(config):
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


def _check_tied_head(readers: Readers, config: DecoderConfig, source: str) -> None:
    """Check that a head that is stored beside the embedding it is tied to is a copy of it.

    Raises:
        InputError: It is not, so that either the configuration or a tensor is wrong.
    """
    head, embedding = readers.get(weight_names.HEAD.name), readers.get(weight_names.EMBEDDING.name)
    if not config.tied or head is None or embedding is None:
        return
    for first in range(0, config.vocabulary, HEAD_ROWS):
        rows = (slice(first, min(first + HEAD_ROWS, config.vocabulary)),)
        if head.shape != embedding.shape or not np.array_equal(head(rows), embedding(rows)):
            raise InputError(
                f"{source}: config.json ties lm_head.weight to the embedding, and the tensors differ; set "
                "tie_word_embeddings to false if the head was trained, or remove lm_head.weight"
            )


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
