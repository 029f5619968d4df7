"""Qwen 2 and 2.5: biases of q, k and v; windows in the last layers, where switched on."""

from dataclasses import replace

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import QKV, Family
from cann_jax.models.families.layer_kinds import (
    FULL,
    SLIDING,
    LayerKinds,
    kinds_of_types,
    read_rope,
    write_switched_types,
)

QWEN_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}


def last_layers_slide(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers with windows from number ``max_window_layers`` on, where windows are switched on."""
    rope = read_rope(config, head_dim)
    if not config.flag("use_sliding_window"):
        config = replace(config, values={**config.values, "sliding_window": None})
    first = config.count("max_window_layers") if config.get("sliding_window") else layers
    types = [SLIDING if layer >= first else FULL for layer in range(layers)]
    return kinds_of_types(config, types, rope, rope)


QWEN2 = Family(
    "Qwen2ForCausalLM", last_layers_slide, write_switched_types, sets={"biases": QKV}, defaults=QWEN_DEFAULTS
)
