"""Adapters attached to weights that they share: several pre-aligned models in the memory of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.peft import Adapter, open_adapter
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import ArrayPath, Weight, flat_state, fused_weights
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.linear import LoraParam
from cann_jax.runtime.sharding import parameter_sharding


def open_attachable(files: ModelFiles, folder: Path) -> Adapter:
    """Open an adapter in PEFT's format that can be attached to a model's weights.

    Raises:
        InputError: As ``open_adapter``; or an adapted layer is fused with others on disk, or is the head.
    """
    adapter = open_adapter(folder, files.readers, files.fingerprint)
    other = adapter.layers.keys() - {layer for names in _layers(files.config).values() for layer in names}
    if other:
        raise InputError(
            f"{folder}: an adapter of {min(other)} cannot be attached to the weights (fused layer, or head); "
            "merge it with peft and name the result as a model"
        )
    return adapter


def attach_adapter(model: LanguageModel, adapter: Adapter) -> LanguageModel:
    """Return a model without adapters with one from ``open_attachable``; other arrays are not copied."""
    lora, own = _lora(model.config, adapter), _arrays(model.config, adapter)
    return LanguageModel.of(nnx.merge(*with_adapters(model, lora, own)), model.files)


def with_adapters(
    model: LanguageModel, lora: LoraConfig, arrays: Mapping[ArrayPath, np.ndarray] | None = None
) -> tuple[Any, Any, Any]:
    """Split a model without adapters as one that has some: graph, the adapters' arrays, and the others.

    The others are the model's own, not copied. ``arrays`` are the adapters' by path, zero by default.
    """
    base, decoder, place = dict(flat_state(model.weights)), model.decoder, parameter_sharding()
    dtype = str(jnp.dtype(decoder.dtype))
    abstract = abstract_decoder(model.config, dtype, lora, attention=decoder.kernel)
    graph, *states = nnx.split(abstract, LoraParam, ...)
    adapters, rest = states
    for path, leaf in flat_state(rest):
        leaf.set_value(base[path][...])
    for path, leaf in flat_state(adapters):
        array = jnp.zeros(leaf.shape, leaf.dtype) if arrays is None else jnp.asarray(arrays[path])
        leaf.set_value(array if place is None else jax.device_put(array, place(path)))
    return graph, adapters, rest


def _layers(config: DecoderConfig) -> dict[Weight, list[str]]:
    """Return the Hugging Face names of the layers of every kernel that has tensors of its own on disk."""
    alone = [group[0] for group in fused_weights(config) if len(group) == 1]
    kernels = [weight for weight in alone if weight.path[-1] == "kernel"]
    return {kernel: [name.removesuffix(".weight") for name in kernel.names(config)] for kernel in kernels}


def _adapted(config: DecoderConfig, adapter: Adapter) -> dict[Weight, list[str]]:
    """Return the kernels of which at least one layer is adapted."""
    return {w: layers for w, layers in _layers(config).items() if adapter.layers.keys() & set(layers)}


def _lora(config: DecoderConfig, adapter: Adapter) -> LoraConfig:
    targets = tuple(weight.path[-2] for weight in _adapted(config, adapter))
    return LoraConfig(adapter.rank, adapter.scale * adapter.rank, 0.0, cast(Any, targets))


def _arrays(config: DecoderConfig, adapter: Adapter) -> dict[ArrayPath, np.ndarray]:
    """Return A (layers, in, r) and B (layers, r, out) by path; zero where a layer has no adapter."""
    arrays: dict[ArrayPath, np.ndarray] = {}
    for weight, layers in _adapted(config, adapter).items():
        known = next(adapter.layers[layer] for layer in layers if layer in adapter.layers)
        for half, name in enumerate("ab"):
            stacked = np.zeros((len(layers), *known[half].shape[::-1]), np.float32)
            for index, layer in enumerate(layers):
                if layer in adapter.layers:
                    stacked[index] = adapter.layers[layer][half]().T
            arrays[*weight.path[:-1], "lora", name] = stacked
    return arrays
