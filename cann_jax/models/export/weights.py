"""A decoder's weights as Hugging Face stores them, adapters merged."""

from collections.abc import Iterator

import numpy as np
from jax import Array
from numpy.typing import DTypeLike

from cann_jax.models.decoder import Decoder
from cann_jax.models.files.weight_names import ArrayPath, Weight, base_state, fused_weights, lora_at
from cann_jax.runtime.placement import fetch


def iterate_weights(decoder: Decoder, dtype: DTypeLike) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the Hugging Face name and array of every weight, adapters merged, one tensor at a time."""
    state = base_state(decoder)
    for group in fused_weights(decoder.config):
        for layer, name in enumerate(group[0].names(decoder.config)):
            parts = [_tensor(decoder, state, weight, layer) for weight in group]
            # safetensors writes memory in its physical order, whatever the strides say.
            yield name, np.ascontiguousarray(np.concatenate(parts)).astype(dtype)


def _tensor(decoder: Decoder, state: dict[ArrayPath, Array], weight: Weight, layer: int) -> np.ndarray:
    """Return one layer's array as Hugging Face stores it."""
    index = layer if weight.stacked else slice(None)
    tensor = fetch(state[weight.path][index]).astype(np.float32)
    lora = lora_at(decoder, weight.path)
    if lora is not None:
        a, b = (fetch(half[...][index]).astype(np.float32) for half in (lora.a, lora.b))
        tensor = tensor + a @ b * lora.scale
    return tensor.T if weight.transpose else tensor
