"""SmolLM3: layers without RoPE at a regular distance; windows, where switched on, in those."""

from typing import Any

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import ATTENTION_BIAS, MLP_BIAS, Family
from cann_jax.models.families.layer_kinds import (
    FULL,
    SLIDING,
    LayerKind,
    LayerKinds,
    kinds_of_types,
    read_rope,
    read_window,
    write_switched_types,
)


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    rope, interval = read_rope(config, head_dim), config.size("no_rope_layer_interval")
    default = [int((layer + 1) % interval != 0) for layer in range(layers)]
    rotated = config.per_layer("no_rope_layers", (0, 1), default)
    window = read_window(config) if config.flag("use_sliding_window") else None
    types = [SLIDING if window and not one else FULL for one in rotated]
    kinds = kinds_of_types(config, types, rope, rope)
    return tuple(LayerKind(rope if r else None, kind.window) for r, kind in zip(rotated, kinds, strict=True))


def _write(kinds: LayerKinds) -> dict[str, Any]:
    return {**write_switched_types(kinds), "no_rope_layers": [int(kind.rope is not None) for kind in kinds]}


SMOLLM3 = Family(
    "SmolLM3ForCausalLM",
    _kinds,
    _write,
    biases=ATTENTION_BIAS | MLP_BIAS,
    defaults={"rope_theta": 2_000_000.0, "no_rope_layer_interval": 4, "tie_word_embeddings": True},
)
