"""SmolLM3: layers without RoPE at a regular distance; windows, where switched on, in those."""

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import family
from cann_jax.models.families.family import FULL, SLIDING, Family, LayerKind, LayerKinds


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    rope, interval = family.read_rope(config, head_dim), config.size("no_rope_layer_interval")
    default = [int((layer + 1) % interval != 0) for layer in range(layers)]
    rotated = config.per_layer("no_rope_layers", (0, 1), default)
    window = family.read_window(config) if config.flag("use_sliding_window") else None
    types = [SLIDING if window and not one else FULL for one in rotated]
    kinds = family.kinds_of_types(config, types, rope, rope)
    return tuple(LayerKind(rope if r else None, kind.window) for r, kind in zip(rotated, kinds, strict=True))


SMOLLM3 = Family(
    "SmolLM3ForCausalLM",
    _kinds,
    writes=("sliding_window", "use_sliding_window", "layer_types", "no_rope_layers"),
    biases=family.ATTENTION_BIAS | family.MLP_BIAS,
    defaults={"rope_theta": 2_000_000.0, "no_rope_layer_interval": 4, "tie_word_embeddings": True},
)
