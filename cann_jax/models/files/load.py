"""Decoders with the weights of a model's files, or with shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from cann_jax.config.training import LoraConfig
from cann_jax.models.adapters.lora import LoraParam
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import expected_weights, flat_state
from cann_jax.models.files.weights import Shardings, load_weights
from cann_jax.runtime.sharding import parameter_sharding


def load_decoder(
    files: ModelFiles,
    dtype: str,
    lora: LoraConfig | None = None,
    *,
    seed: int = 0,
    wide: bool = False,
    attention: str = "auto",
    shardings: Shardings | None = None,
) -> Decoder:
    """Read the weights into a decoder.

    Args:
        files: The opened model.
        dtype: Compute dtype.
        lora: New adapters to add (B = 0), or None.
        seed: Seed of the adapters' initial A.
        wide: Whether to store matrices in float32 whatever the compute dtype (full fine-tuning needs it).
        attention: Kernel, as ``model.attention``.
        shardings: Sharding of each array by its path in the decoder's state; tensors are then read one by one
            straight into their shards. None: that of the mesh in use.

    Raises:
        InputError: ``attention`` cannot serve here, or weights are missing, unexpected, of another shape or
            of a type that cannot be read.
    """
    shardings = parameter_sharding() if shardings is None else shardings
    base = load_weights(files.readers, files.config, _storage(dtype, wide), str(files.path), shardings)
    decoder = abstract_decoder(files.config, dtype, lora, wide=wide, attention=attention)
    graph, *states = nnx.split(decoder, LoraParam, ...)
    adapters, rest = states
    if lora is not None:
        adapters = _initial_adapters(files.config, lora, seed)
    if shardings is not None:
        for path, leaf in flat_state(adapters):
            leaf.set_value(jax.device_put(leaf[...], shardings(path)))
    for path, leaf in flat_state(rest):
        leaf.set_value(jnp.asarray(base.pop(path)))
    return nnx.merge(graph, adapters, rest)


def abstract_decoder(
    config: DecoderConfig, dtype: str, lora: LoraConfig | None, *, wide: bool = False, attention: str = "auto"
) -> Decoder:
    """Return the decoder that ``load_decoder`` makes, with shapes instead of arrays."""
    decoder = nnx.eval_shape(lambda: Decoder(config, jnp.dtype(dtype), lora, attention, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(decoder)
    narrow = {weight.path for weight in expected_weights(config) if not weight.wide}
    for path, leaf in flat_state(state):
        if path in narrow:
            leaf.set_value(jax.ShapeDtypeStruct(leaf.shape, _storage(dtype, wide)))
    return nnx.merge(graph, state)


def _storage(dtype: str, wide: bool) -> Any:
    """Return the dtype in which matrices are kept."""
    return jnp.dtype("float32" if wide else dtype)


def _initial_adapters(config: DecoderConfig, lora: LoraConfig, seed: int) -> Any:
    # Jitted whole, so that XLA drops the base weights that a plain construction would draw too.
    @jax.jit
    def draw(key: Array) -> Any:
        return nnx.state(Decoder(config, lora=lora, rngs=nnx.Rngs(key)), LoraParam)

    return draw(jax.random.key(seed))
