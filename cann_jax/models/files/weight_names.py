"""Weights by their Hugging Face names, into and out of the decoder's stacked state; strict both ways."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.families.family import FAMILIES, NORMS
from cann_jax.runtime.placement import fetch


@dataclass(frozen=True)
class Weight:
    """Where one of the decoder's arrays comes from.

    Args:
        path: Path in the decoder's state.
        name: Hugging Face name; holds ``{layer}`` where the array is stacked over layers.
        transpose: Hugging Face stores it (out, in).
        wide: Kept in float32 whatever the storage dtype (norm scales: a few kilobytes).
    """

    path: tuple[str, ...]
    name: str
    transpose: bool = False
    wide: bool = False


HEAD = Weight(("lm_head",), "lm_head.weight")
_PARENTS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"), ("attention", "self_attn")),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ("mlp", "mlp")),
}


def expected_weights(config: DecoderConfig) -> tuple[Weight, ...]:
    """Every array of the decoder; those that share a name are fused on disk, one behind the other."""
    linears = [name for name in _PARENTS if name.endswith("_proj")]
    head_norms = ("q_norm", "k_norm") if config.qk_norm else ()
    return (
        Weight(("embedding",), "model.embed_tokens.weight"),
        *(_of_layer(config, name, "kernel") for name in linears),
        *(_of_layer(config, name, "bias") for name in linears if name in config.biases),
        *(_of_layer(config, name, "scale") for name in head_norms),
        *(
            Weight(("layers", name, "scale"), f"model.layers.{{layer}}.{on_disk}.weight", wide=True)
            for name, on_disk in NORMS[config.norms].items()
        ),
        Weight(("final_norm", "scale"), "model.norm.weight", wide=True),
        *(() if config.tied else (HEAD,)),
    )


def _of_layer(config: DecoderConfig, name: str, array: str) -> Weight:
    ours, theirs = _PARENTS[name]
    on_disk = FAMILIES[config.family].fused.get(name, f"{theirs}.{name}")
    suffix = "bias" if array == "bias" else "weight"
    kernel = array == "kernel"
    return Weight(
        ("layers", ours, name, array), f"model.layers.{{layer}}.{on_disk}.{suffix}", kernel, not kernel
    )


def fused_weights(config: DecoderConfig) -> Iterator[tuple[str, list[Weight]]]:
    """(Name, the arrays that one tensor of this name holds)."""
    for name, group in groupby(expected_weights(config), key=lambda weight: weight.name):
        yield name, list(group)


def names_of(weight: Weight, config: DecoderConfig) -> list[str]:
    if "{layer}" not in weight.name:
        return [weight.name]
    return [weight.name.format(layer=layer) for layer in range(config.layers)]


def load_weights(
    read: dict[str, Callable[[], np.ndarray]], config: DecoderConfig, dtype, source: str
) -> dict:
    """Flat state {path: array} of the base weights; one tensor in memory at a time beside the result.

    Args:
        read: A reader for every tensor of the source, by Hugging Face name.
        config: The decoder.
        dtype: Storage dtype of the matrices.
        source: What to call the source in an error.

    Raises:
        InputError: names that are missing or unexpected (all at once), or a tensor of another shape or kind.
    """
    _check_names(set(read), config, source)
    shapes = base_shapes(config)
    state = {}
    for _, weights in fused_weights(config):
        arrays = [np.empty(shapes[w.path].shape, jnp.float32 if w.wide else dtype) for w in weights]
        _fill(weights, arrays, config, read, source)
        state |= {weight.path: array for weight, array in zip(weights, arrays, strict=True)}
    return state


def check_weights(shapes: dict[str, tuple[int, ...]], config: DecoderConfig, source: str) -> None:
    """What ``load_weights`` checks of names and shapes, without reading a tensor.

    Args:
        shapes: Of every tensor of the source, by Hugging Face name.
        config: The decoder.
        source: What to call the source in an error.

    Raises:
        InputError: as ``load_weights``.
    """
    _check_names(set(shapes), config, source)
    targets = base_shapes(config)
    for _, weights in fused_weights(config):
        parts = [on_disk_shape(weight, targets[weight.path].shape) for weight in weights]
        for name in names_of(weights[0], config):
            _check_shape(name, shapes[name], _joined(parts), source)


def on_disk_shape(weight: Weight, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one tensor of an array of this shape."""
    shape = shape[1:] if "{layer}" in weight.name else shape
    return shape[::-1] if weight.transpose else shape


def _joined(parts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of tensors of these shapes, one behind the other."""
    return (sum(part[0] for part in parts), *parts[0][1:])


def base_shapes(config: DecoderConfig) -> dict:
    """Shape of every array of the decoder, by its path."""
    return jax.eval_shape(lambda: _base_state(Decoder(config, rngs=nnx.Rngs(0))))


def _base_state(decoder: Decoder) -> dict:
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(decoder, nnx.Param))}


def _ignorable(names: set[str], config: DecoderConfig) -> set[str]:
    """Tensors that carry nothing of their own: RoPE's frequencies of early files, the copy of a tied head."""
    return {
        name for name in names if name.endswith("rotary_emb.inv_freq") or (config.tied and name == HEAD.name)
    }


def _check_names(names: set[str], config: DecoderConfig, source: str) -> None:
    wanted = {name for weight in expected_weights(config) for name in names_of(weight, config)}
    found = names - _ignorable(names, config)
    problems = [
        f"{len(faulty)} {kind} ({', '.join(sorted(faulty)[:4])}{', …' if len(faulty) > 4 else ''})"
        for kind, faulty in (("missing", wanted - found), ("unexpected", found - wanted))
        if faulty
    ]
    if problems:
        raise InputError(
            f"{source}: weights do not match config.json: {'; '.join(problems)}; use files of one model"
        )


def _fill(weights: list[Weight], arrays: list[np.ndarray], config: DecoderConfig, read, source: str) -> None:
    """Read the tensors of one name into the arrays that they hold."""
    parts = [on_disk_shape(weight, array.shape) for weight, array in zip(weights, arrays, strict=True)]
    ends = np.cumsum([part[0] for part in parts])
    for index, name in enumerate(names_of(weights[0], config)):
        tensor = read[name]()
        check_floating(name, tensor, source)
        _check_shape(name, tensor.shape, _joined(parts), source)
        for weight, array, rows in zip(weights, arrays, np.split(tensor, ends[:-1]), strict=True):
            layer = array[index] if "{layer}" in weight.name else array
            layer[...] = rows.T if weight.transpose else rows


def check_floating(name: str, tensor: np.ndarray, source: str) -> None:
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise InputError(
            f"{source}: {name} is {tensor.dtype}; quantized folders are not read, use a plain one"
        )


def _check_shape(name: str, have: tuple[int, ...], want: tuple[int, ...], source: str) -> None:
    if have != want:
        raise InputError(
            f"{source}: {name} has shape {have}, config.json asks for {want}; use files of one model"
        )


def iterate_weights(decoder: Decoder, dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, array) of every weight, adapters merged, one tensor at a time."""
    state = _base_state(decoder)
    for _, weights in fused_weights(decoder.config):
        for index, name in enumerate(names_of(weights[0], decoder.config)):
            parts = [_tensor(decoder, state, weight, index) for weight in weights]
            # safetensors writes memory as it lies, whatever the strides say.
            yield name, np.ascontiguousarray(np.concatenate(parts)).astype(dtype)


def _tensor(decoder: Decoder, state: dict, weight: Weight, index: int) -> np.ndarray:
    """One layer's array as Hugging Face stores it."""
    layer = index if "{layer}" in weight.name else slice(None)
    tensor = fetch(state[weight.path][layer]).astype(np.float32)
    path = weight.path[:-1]
    if weight.path[-1] == "kernel" and (*path, "lora", "a") in state:
        tensor = tensor + _lora_update(decoder, state, path, layer)
    return tensor.T if weight.transpose else tensor


def _lora_update(decoder: Decoder, state: dict, path: tuple[str, ...], layer: int) -> np.ndarray:
    module = decoder
    for part in path:
        module = getattr(module, part)
    a, b = (fetch(state[(*path, "lora", name)][layer]).astype(np.float32) for name in ("a", "b"))
    return a @ b * module.lora.scale
