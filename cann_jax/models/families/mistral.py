"""Mistral: one sliding window for all layers, or none."""

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import Family
from cann_jax.models.families.layer_kinds import (
    LayerKind,
    LayerKinds,
    read_rope,
    read_window,
    write_uniform_window,
)


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    return (LayerKind(read_rope(config, head_dim), read_window(config)),) * layers


MISTRAL = Family(
    "MistralForCausalLM",
    _kinds,
    write_uniform_window,
    defaults={"sliding_window": 4096},
    only={"layer_types": None},
)
