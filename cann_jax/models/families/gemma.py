"""Gemma 2 and Gemma 3, text: scaled embeddings, norms around attention and MLP with scale 1 + w, windows.

Gemma 2 has soft-caps, and every second layer slides. Gemma 3 has q and k norms instead; every sixth layer is
full, and sliding layers have a RoPE of their own, never scaled by ``rope_scaling``.
"""

from functools import partial
from typing import Any

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import family
from cann_jax.models.families.family import ATTENTION_BIAS, FULL, SLIDING, Family, LayerKinds

_WRITES = ("sliding_window", "layer_types")
_SETS = {"norms": "around", "norm_offset": 1.0, "scaled_embedding": True}
_READS = {
    "hidden_activation": "activation",
    "query_pre_attn_scalar": "query_scalar",
    "final_logit_softcapping": "final_softcap",
}
_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def _kinds_2(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    rope = family.read_rope(config, head_dim)
    types = [FULL if layer % 2 else SLIDING for layer in range(layers)]
    return family.kinds_of_types(config, types, rope, rope)


def _kinds_3(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    given, scaling = partial(config.mapping, "rope_parameters"), config.mapping("rope_scaling")
    full = {"rope_theta": config.get("rope_theta"), **given(FULL), **scaling}
    sliding = {"rope_theta": config.get("rope_local_base_freq"), **given(SLIDING)}
    ropes = [family.read_rope(config, head_dim, parameters) for parameters in (full, sliding)]
    pattern = config.size("sliding_window_pattern")
    types = [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]
    return family.kinds_of_types(config, types, *ropes)


def _write_two_ropes(kinds: LayerKinds) -> dict[str, Any]:
    """Return ``rope_parameters`` of both kinds of layers, and the older keys of the same.

    Those have no scaling of sliding layers, which no released model has.
    """
    ropes = {SLIDING if kind.window else FULL: kind.rope for kind in kinds if kind.rope}
    older = ropes[FULL].to_older_hf() if FULL in ropes else {}
    if SLIDING in ropes:
        older["rope_local_base_freq"] = ropes[SLIDING].theta
    return {"rope_parameters": {name: rope.to_hf() for name, rope in ropes.items()}, **older}


GEMMA2 = Family(
    "Gemma2ForCausalLM",
    _kinds_2,
    _WRITES,
    sets=_SETS,
    reads=_READS | {"attn_logit_softcapping": "attention_softcap"},
    biases=ATTENTION_BIAS,
    defaults=_DEFAULTS | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
)
GEMMA3 = Family(
    "Gemma3ForCausalLM",
    _kinds_3,
    _WRITES,
    _write_two_ropes,
    sets=_SETS | {"qk_norm": "head"},
    reads=_READS,
    biases=ATTENTION_BIAS,
    defaults=_DEFAULTS
    | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
    # transformers ignores it in this family; no such model sets it.
    only={"attn_logit_softcapping": None},
)
