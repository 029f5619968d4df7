"""The properties that tell one Hugging Face ``model_type`` from another, as the one decoder needs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.layer_kinds import LayerKinds, uniform, write_rope

QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")
ATTENTION_BIAS: dict[str, tuple[str, ...]] = {"attention_bias": (*QKV, "o_proj")}
MLP_BIAS: dict[str, tuple[str, ...]] = {"mlp_bias": (*GATE_UP, "down_proj")}


@dataclass(frozen=True)
class Family:
    """One ``model_type``; the defaults are those of Llama 1.

    Args:
        architecture: transformers' class.
        kinds: Reads the layers' kinds from the configuration, the size of a head and the number of layers.
        write: Returns the keys from which ``kinds`` reads the same again.
        sets: Fields of ``DecoderConfig`` that hold for the whole family.
        reads: Further keys of ``config.json`` → field of ``DecoderConfig``; null is kept.
        biases: Keys of ``config.json`` → linear layers that have a bias where the key is true.
        defaults: What transformers takes for an absent key.
        only: Keys that change the mathematics → the only value implemented.
        fused: Linear layer → name of the tensor that holds it together with others, in their order.
    """

    architecture: str
    kinds: Callable[[ConfigReader, int, int], LayerKinds] = uniform
    write: Callable[[LayerKinds], dict[str, Any]] = write_rope
    sets: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=lambda: {"hidden_act": "activation"})
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)
