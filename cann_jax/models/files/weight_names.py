"""The decoder's arrays by their Hugging Face names, and the check that a source has exactly those."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
from flax import nnx
from jax import Array

from cann_jax.files.errors import InputError, cut
from cann_jax.models.config import NORMS, DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.families import FAMILIES
from cann_jax.models.linear import Lora
from cann_jax.runtime.sharding import LINEARS

ArrayPath = tuple[str, ...]  # of an array in the decoder's state
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """The source of one of the decoder's arrays."""

    path: ArrayPath  # in the decoder's state
    name: str  # Hugging Face's; holds ``{layer}`` where the array is stacked over layers
    transpose: bool = False  # Hugging Face stores it as (out, in)
    wide: bool = False  # float32 whatever the storage dtype (norm scales and biases: a few kilobytes)

    @property
    def stacked(self) -> bool:
        """Whether the array is stacked over layers."""
        return "{layer}" in self.name

    def names(self, config: DecoderConfig) -> list[str]:
        """Return the names of its tensors, one for each layer where it is stacked."""
        return [self.name.format(layer=layer) for layer in range(config.layers if self.stacked else 1)]

    def on_disk_shape(self, shape: Shape) -> Shape:
        """Return the shape of one tensor of an array of this shape."""
        shape = shape[1:] if self.stacked else shape
        return shape[::-1] if self.transpose else shape


EMBEDDING = Weight(("embedding",), "model.embed_tokens.weight")
HEAD = Weight(("lm_head",), "lm_head.weight")


def expected_weights(config: DecoderConfig) -> tuple[Weight, ...]:
    """Return every array of the decoder; those that share a name are concatenated on disk, in this order."""
    head_norms = ("q_norm", "k_norm") if config.qk_norm else ()
    return (
        EMBEDDING,
        *(_of_layer(config, name, "kernel") for name in LINEARS),
        *(_of_layer(config, name, "bias") for name in LINEARS if name in config.biases),
        *(_of_layer(config, name, "scale") for name in head_norms),
        *(
            Weight(("layers", name, "scale"), f"model.layers.{{layer}}.{on_disk}.weight", wide=True)
            for name, on_disk in NORMS[config.norms].items()
        ),
        Weight(("final_norm", "scale"), "model.norm.weight", wide=True),
        *(() if config.tied else (HEAD,)),
    )


def _of_layer(config: DecoderConfig, name: str, array: str) -> Weight:
    in_mlp = name in ("gate_proj", "up_proj", "down_proj")
    ours, theirs = ("mlp", "mlp") if in_mlp else ("attention", "self_attn")
    on_disk = FAMILIES[config.family].fused.get(name, f"{theirs}.{name}")
    suffix = "bias" if array == "bias" else "weight"
    kernel = array == "kernel"
    return Weight(
        ("layers", ours, name, array), f"model.layers.{{layer}}.{on_disk}.{suffix}", kernel, not kernel
    )


def fused_weights(config: DecoderConfig) -> list[list[Weight]]:
    """Return the arrays in groups that share a name: one tensor on disk holds the arrays of a group."""
    return [list(group) for _, group in groupby(expected_weights(config), key=lambda weight: weight.name)]


def lora_at(decoder: Decoder, path: ArrayPath) -> Lora | None:
    """Return the adapter of the kernel at ``path``; None where it has none, or it is another array."""
    module: Any = decoder
    for part in path[:-1]:
        module = getattr(module, part)
    return module.lora if path[-1] == "kernel" else None


def flat_state(state: Any) -> list[tuple[ArrayPath, Any]]:
    """Return the variables of a module's state with their paths."""
    return [(tuple(map(str, path)), leaf) for path, leaf in nnx.to_flat_state(state)]


def base_state(decoder: Decoder) -> dict[ArrayPath, Array]:
    """Return every array of the decoder by its path."""
    return {path: leaf[...] for path, leaf in flat_state(nnx.state(decoder, nnx.Param))}


def base_shapes(config: DecoderConfig) -> dict[ArrayPath, Shape]:
    """Return the shape of every array of the decoder by its path."""
    state = jax.eval_shape(lambda: base_state(Decoder(config, rngs=nnx.Rngs(0))))
    return {path: array.shape for path, array in state.items()}


def check_weights(shapes: Mapping[str, Shape], config: DecoderConfig, source: str) -> None:
    """Check the shapes of a source's tensors, given by Hugging Face name, without reading one.

    Raises:
        InputError: Names are missing or unexpected (all are listed), or a tensor has another shape.
    """
    _check_names(set(shapes), config, source)
    targets = base_shapes(config)
    for group in fused_weights(config):
        parts = [weight.on_disk_shape(targets[weight.path]) for weight in group]
        expected = (sum(part[0] for part in parts), *parts[0][1:])
        for name in group[0].names(config):
            if shapes[name] != expected:
                raise InputError(
                    f"{source}: {name} has shape {shapes[name]}, config.json asks for {expected}; "
                    "use files of one model"
                )


def _check_names(names: set[str], config: DecoderConfig, source: str) -> None:
    wanted = {name for weight in expected_weights(config) for name in weight.names(config)}
    found = {name for name in names if not _is_redundant(name, config)}
    problems = [
        f"{len(faulty)} {kind} ({', '.join(map(cut, sorted(faulty)[:4]))}{', …' if len(faulty) > 4 else ''})"
        for kind, faulty in (("missing", wanted - found), ("unexpected", found - wanted))
        if faulty
    ]
    if problems:
        raise InputError(
            f"{source}: weights do not match config.json: {'; '.join(problems)}; use files of one model"
        )


def _is_redundant(name: str, config: DecoderConfig) -> bool:
    """Return whether it is early files' RoPE frequencies or the copy of a tied head, which add nothing."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied and name == HEAD.name)
