"""Mistral: one sliding window for all layers, or none."""

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import Family, LayerKind, LayerKinds, read_rope, read_window


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    return (LayerKind(read_rope(config, head_dim), read_window(config)),) * layers


MISTRAL = Family(
    "MistralForCausalLM",
    _kinds,
    writes=("sliding_window",),
    defaults={"sliding_window": 4096},
    only={"layer_types": None},
)
