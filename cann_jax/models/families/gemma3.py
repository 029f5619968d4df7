"""Gemma 3, text: Gemma 2 without soft-caps; q and k norms; sliding layers with a RoPE of their own."""

from typing import Any

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import ATTENTION_BIAS, Family
from cann_jax.models.families.gemma2 import GEMMA_DEFAULTS, GEMMA_READS, GEMMA_SETS
from cann_jax.models.families.layer_kinds import (
    FULL,
    SLIDING,
    LayerKinds,
    kinds_of_types,
    read_rope,
    write_types,
)


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers of which every sixth is full; ``rope_scaling`` is that of full layers alone."""
    given, scaling = config.mapping("rope_parameters"), config.mapping("rope_scaling")
    full = {"rope_theta": config.get("rope_theta"), **(given.get(FULL) or {}), **scaling}
    sliding = {"rope_theta": config.get("rope_local_base_freq"), **(given.get(SLIDING) or {})}
    pattern = config.size("sliding_window_pattern")
    types = [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]
    ropes = (read_rope(config, head_dim, parameters) for parameters in (full, sliding))
    return kinds_of_types(config, types, *ropes)


def _write(kinds: LayerKinds) -> dict[str, Any]:
    ropes = {SLIDING if kind.window else FULL: kind.rope.to_hf() for kind in kinds if kind.rope}
    return {**write_types(kinds), "rope_parameters": ropes}


GEMMA3 = Family(
    "Gemma3ForCausalLM",
    _kinds,
    _write,
    sets=GEMMA_SETS | {"qk_norm": "head"},
    reads=GEMMA_READS,
    biases=ATTENTION_BIAS,
    defaults=GEMMA_DEFAULTS
    | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
    # transformers ignores it in this family; no such model sets it.
    only={"attn_logit_softcapping": None},
)
