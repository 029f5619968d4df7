"""The properties that tell one Hugging Face ``model_type`` from another, and what families share in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.rope import Rope

FULL, SLIDING = "full_attention", "sliding_attention"
QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")
ATTENTION_BIAS: dict[str, tuple[str, ...]] = {"attention_bias": (*QKV, "o_proj")}
MLP_BIAS: dict[str, tuple[str, ...]] = {"mlp_bias": (*GATE_UP, "down_proj")}


@dataclass(frozen=True)
class LayerKind:
    """The properties in which layers of one model may differ."""

    rope: Rope | None
    window: int | None = None  # number of positions that a token sees, itself included; None for all


LayerKinds = tuple[LayerKind, ...]


def rope_parameters(config: ConfigReader) -> dict[str, Any]:
    """Return ``rope_scaling`` (transformers 4) or else ``rope_parameters``, with the keys beside it."""
    # A file that has both is read by transformers as one without rope_parameters.
    found = {**(config.mapping("rope_scaling") or config.mapping("rope_parameters"))}
    for key in ("rope_theta", "partial_rotary_factor"):
        found.setdefault(key, config.get(key))
    # transformers lets the outer one win where both are present.
    trained = config.get("original_max_position_embeddings")
    return found if trained is None else {**found, "original_max_position_embeddings": trained}


def read_rope(config: ConfigReader, head_dim: int, parameters: Mapping[str, Any] | None = None) -> Rope:
    """Return a RoPE over whole heads."""
    parameters = rope_parameters(config) if parameters is None else parameters
    if parameters.get("partial_rotary_factor") not in (None, 1):
        problem = "partial_rotary_factor is not supported in this family"
        raise InputError(f"{config.source}: {problem}; use a model that rotates whole heads")
    return Rope.from_hf(parameters, head_dim, config.size("max_position_embeddings"), config.source)


def read_window(config: ConfigReader) -> int | None:
    """Return ``sliding_window``, or None for none."""
    return None if config.get("sliding_window") is None else config.size("sliding_window")


def kinds_of_types(config: ConfigReader, default: list[str], full: Rope, sliding: Rope) -> LayerKinds:
    """Return the kinds that ``layer_types`` names, or ``default`` where the key is absent."""
    types = config.per_layer("layer_types", (FULL, SLIDING), default)
    window = read_window(config)
    if window is None and SLIDING in types:
        raise config.fault("sliding_window", "but layer_types has sliding layers")
    return tuple(LayerKind(sliding, window) if one == SLIDING else LayerKind(full) for one in types)


def all_see_everything(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers with one RoPE and no window."""
    return (LayerKind(read_rope(config, head_dim)),) * layers


def one_rope(kinds: LayerKinds) -> dict[str, Any]:
    """Return ``rope_parameters`` of layers that share one RoPE, and the older keys of the same."""
    rope = next((kind.rope for kind in kinds if kind.rope), None)
    return {} if rope is None else {"rope_parameters": rope.to_hf(), **rope.to_older_hf()}


@dataclass(frozen=True)
class Family:
    """One ``model_type``; the defaults are those of Llama 1. "Keys" are those of ``config.json``."""

    architecture: str  # transformers' class
    # Reads the layers' kinds from the configuration, the size of a head and the number of layers.
    kinds: Callable[[ConfigReader, int, int], LayerKinds] = all_see_everything
    writes: tuple[str, ...] = ()  # keys that, beside RoPE's, ``kinds`` reads
    write_rope: Callable[[LayerKinds], dict[str, Any]] = one_rope  # returns RoPE's keys
    sets: Mapping[str, Any] = field(default_factory=dict)  # ``DecoderConfig``'s, for the whole family
    # Further keys → field of ``DecoderConfig``; null is kept.
    reads: Mapping[str, str] = field(default_factory=lambda: {"hidden_act": "activation"})
    # Keys → linear layers that have a bias where the key is true.
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what transformers takes for an absent key
    # Keys that change the mathematics → the only value implemented.
    only: Mapping[str, Any] = field(default_factory=dict)
    # Linear layer → name of the tensor that holds it together with others, in their order.
    fused: Mapping[str, str] = field(default_factory=dict)

    def write_kinds(self, kinds: LayerKinds) -> dict[str, Any]:
        """Return the keys from which ``kinds`` reads the same again."""
        window = next((kind.window for kind in kinds if kind.window), None)
        values = {
            "sliding_window": window,
            "use_sliding_window": window is not None,
            "layer_types": [SLIDING if kind.window else FULL for kind in kinds],
            "no_rope_layers": [int(kind.rope is not None) for kind in kinds],
        }
        return {**{key: values[key] for key in self.writes}, **self.write_rope(kinds)}
