"""Qwen 2, 2.5 and 3, dense: windows in the last layers, where switched on; biases, or q and k norms."""

from dataclasses import replace

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import family
from cann_jax.models.families.family import ATTENTION_BIAS, FULL, QKV, SLIDING, Family, LayerKinds

_WRITES = ("sliding_window", "use_sliding_window", "layer_types")
_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers with windows from number ``max_window_layers`` on."""
    rope = family.read_rope(config, head_dim)
    if not config.flag("use_sliding_window"):
        config = replace(config, values={**config.values, "sliding_window": None})
    first = config.count("max_window_layers") if config.get("sliding_window") else layers
    types = [SLIDING if layer >= first else FULL for layer in range(layers)]
    return family.kinds_of_types(config, types, rope, rope)


QWEN2 = Family("Qwen2ForCausalLM", _kinds, _WRITES, sets={"biases": QKV}, defaults=_DEFAULTS)
QWEN3 = Family(
    "Qwen3ForCausalLM",
    _kinds,
    _WRITES,
    sets={"qk_norm": "head"},
    biases=ATTENTION_BIAS,
    defaults=_DEFAULTS | {"head_dim": 128},
)
