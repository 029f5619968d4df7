"""Weights by their Hugging Face names, into and out of the decoder's stacked state; strict both ways."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder


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


def _linear(path: str, name: str) -> Weight:
    return Weight(
        ("layers", *path.split("."), "kernel"), f"model.layers.{{layer}}.{name}.weight", transpose=True
    )


WEIGHTS = (
    Weight(("embedding",), "model.embed_tokens.weight"),
    *(_linear(f"attention.{name}", f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(_linear(f"mlp.{name}", f"mlp.{name}") for name in ("gate_proj", "up_proj", "down_proj")),
    Weight(("layers", "input_norm", "scale"), "model.layers.{layer}.input_layernorm.weight", wide=True),
    Weight(
        ("layers", "post_norm", "scale"), "model.layers.{layer}.post_attention_layernorm.weight", wide=True
    ),
    Weight(("final_norm", "scale"), "model.norm.weight", wide=True),
)
HEAD = Weight(("lm_head",), "lm_head.weight")


def expected_weights(config: DecoderConfig) -> tuple[Weight, ...]:
    return WEIGHTS if config.tied else (*WEIGHTS, HEAD)


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
    shapes = _base_shapes(config)
    return {
        w.path: _fill(w, config, read, shapes[w.path], jnp.float32 if w.wide else dtype, source)
        for w in expected_weights(config)
    }


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
    targets = _base_shapes(config)
    for weight in expected_weights(config):
        target = targets[weight.path].shape
        target = target[1:] if "{layer}" in weight.name else target
        for name in names_of(weight, config):
            _check_shape(name, shapes[name], target[::-1] if weight.transpose else target, source)


def _base_shapes(config: DecoderConfig) -> dict:
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


def _fill(weight: Weight, config: DecoderConfig, read, shape, dtype, source: str) -> np.ndarray:
    out = np.empty(shape.shape, dtype)
    names = names_of(weight, config)
    for index, name in enumerate(names):
        tensor = read[name]()
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise InputError(
                f"{source}: {name} is {tensor.dtype}; quantized folders are not read, use a plain one"
            )
        target = out[index] if "{layer}" in weight.name else out
        target = target.T if weight.transpose else target
        _check_shape(name, tensor.shape, target.shape, source)
        target[...] = tensor
    return out


def _check_shape(name: str, have: tuple[int, ...], want: tuple[int, ...], source: str) -> None:
    if have != want:
        raise InputError(
            f"{source}: {name} has shape {have}, config.json asks for {want}; use files of one model"
        )


def iterate_weights(decoder: Decoder, dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, array) of every weight, adapters merged, one tensor at a time."""
    state = _base_state(decoder)
    adapters = {path[:-2]: None for path in state if path[-2:] == ("lora", "a")}
    for weight in expected_weights(decoder.config):
        for index, name in enumerate(names_of(weight, decoder.config)):
            layer = index if "{layer}" in weight.name else slice(None)
            tensor = np.asarray(state[weight.path][layer], np.float32)
            if weight.path[:-1] in adapters:
                tensor = tensor + _lora_update(decoder, state, weight.path[:-1], layer)
            yield name, np.ascontiguousarray(tensor.T if weight.transpose else tensor).astype(dtype)


def _lora_update(decoder: Decoder, state: dict, path: tuple[str, ...], layer: int) -> np.ndarray:
    module = decoder
    for part in path:
        module = getattr(module, part)
    a, b = (np.asarray(state[(*path, "lora", name)][layer], np.float32) for name in ("a", "b"))
    return a @ b * module.lora.scale
