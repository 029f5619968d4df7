"""How the layers of one model may differ, and what several families share in reading and writing that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.rope import Rope

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class LayerKind:
    """The properties in which layers of one model may differ.

    Args:
        rope: Position embedding, or None for none.
        window: Number of positions that a token sees, itself included, or None for all.
    """

    rope: Rope | None
    window: int | None = None


LayerKinds = tuple[LayerKind, ...]


def rope_parameters(config: ConfigReader) -> dict[str, Any]:
    """Return ``rope_parameters`` (transformers 5), or ``rope_scaling`` (before) with the keys beside it."""
    found = {**config.mapping("rope_scaling"), **config.mapping("rope_parameters")}
    for key in ("rope_theta", "partial_rotary_factor"):
        found.setdefault(key, config.get(key))
    # transformers lets the outer one win where both are present.
    trained = config.get("original_max_position_embeddings")
    return found if trained is None else {**found, "original_max_position_embeddings": trained}


def read_rope(config: ConfigReader, head_dim: int, parameters: Mapping[str, Any] | None = None) -> Rope:
    """Return a RoPE over whole heads."""
    parameters = rope_parameters(config) if parameters is None else parameters
    if parameters.get("partial_rotary_factor") not in (None, 1):
        raise InputError(
            f"{config.source}: partial_rotary_factor is not supported in this family; "
            "use a model that rotates whole heads"
        )
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


def uniform(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers that all see every position."""
    return (LayerKind(read_rope(config, head_dim)),) * layers


def write_rope(kinds: LayerKinds) -> dict[str, Any]:
    """Return ``rope_parameters`` of layers that share one RoPE."""
    rope = next((kind.rope for kind in kinds if kind.rope), None)
    return {} if rope is None else {"rope_parameters": rope.to_hf()}


def write_uniform_window(kinds: LayerKinds) -> dict[str, Any]:
    """Return the keys of layers that all have the same RoPE and window."""
    return {"sliding_window": kinds[0].window, **write_rope(kinds)}


def write_types(kinds: LayerKinds) -> dict[str, Any]:
    """Return the keys of layers of two types that share one RoPE."""
    window = next((kind.window for kind in kinds if kind.window), None)
    types = [SLIDING if kind.window else FULL for kind in kinds]
    return {"sliding_window": window, "layer_types": types, **write_rope(kinds)}


def write_switched_types(kinds: LayerKinds) -> dict[str, Any]:
    """Return the keys of ``write_types`` with ``use_sliding_window``."""
    keys = write_types(kinds)
    return {**keys, "use_sliding_window": keys["sliding_window"] is not None}
