"""What each Hugging Face ``model_type`` means to the one decoder: keys, defaults, layers, weight names.

Read off transformers' configuration and modeling files; a family here is a row of ``FAMILIES`` and, where
its layers differ from each other, a function of its configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import Fields
from cann_jax.models.rope import Rope

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class LayerKind:
    """In what layers of one model may differ.

    Args:
        rope: Position embedding, or None for none.
        window: How many positions back a token sees, itself included, or None for all.
    """

    rope: Rope | None
    window: int | None = None


LayerKinds = tuple[LayerKind, ...]


@dataclass(frozen=True)
class Family:
    """One ``model_type``.

    Args:
        architecture: transformers' class.
        kinds: The layers' kinds, from the configuration, the size of a head and the number of layers.
        write: The keys from which ``kinds`` reads the same again.
        sets: Fields of ``DecoderConfig`` that hold for the whole family.
        reads: Further keys: ``config.json``'s name → field of ``DecoderConfig``; null is kept.
        biases: Keys of ``config.json`` → linear layers that have a bias where the key is true.
        defaults: What transformers takes for a key left out.
        only: Keys that change the mathematics → the only value implemented.
        fused: Linear layer → name of the tensor that holds it together with others, in their order.
    """

    architecture: str
    kinds: Callable[[Fields, int, int], LayerKinds]
    write: Callable[[LayerKinds], dict[str, Any]]
    sets: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)


QKV = ("q_proj", "k_proj", "v_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_ATTENTION_BIAS = {"attention_bias": (*QKV, "o_proj")}
_MLP_BIAS = {"mlp_bias": MLP}
_SILU = {"hidden_act": "activation"}

# Norm of the decoder's block → its Hugging Face name, by where the block has norms.
NORMS = {
    "before": {"pre_attention_norm": "input_layernorm", "pre_mlp_norm": "post_attention_layernorm"},
    "after": {
        "post_attention_norm": "post_attention_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    },
    "around": {
        "pre_attention_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "pre_mlp_norm": "pre_feedforward_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    },
}

# Keys that would change the mathematics in any family, with the only value implemented.
EVERYWHERE = {
    "quantization_config": None,
    "attention_dropout": 0,
    "rope_interleaved": False,
    "use_bidirectional_attention": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}


def rope_parameters(fields: Fields) -> dict[str, Any]:
    """``rope_parameters`` (transformers 5), or ``rope_scaling`` (before) with what stands beside it."""
    found = {**_mapping(fields, "rope_scaling"), **_mapping(fields, "rope_parameters")}
    for key in ("rope_theta", "partial_rotary_factor"):
        found.setdefault(key, fields.get(key))
    # transformers lets the outer one win where both stand.
    trained = fields.get("original_max_position_embeddings")
    return found if trained is None else {**found, "original_max_position_embeddings": trained}


def _mapping(fields: Fields, key: str) -> dict[str, Any]:
    value = fields.get(key)
    if not isinstance(value, dict | None):
        raise fields.fault(key, "no JSON object")
    return value or {}


def _rope(fields: Fields, head_dim: int, parameters: Mapping[str, Any] | None = None) -> Rope:
    """RoPE over whole heads."""
    parameters = rope_parameters(fields) if parameters is None else parameters
    if parameters.get("partial_rotary_factor") not in (None, 1):
        raise InputError(
            f"{fields.source}: partial_rotary_factor is not supported in this family; "
            "use a model that rotates whole heads"
        )
    return Rope.from_hf(parameters, head_dim, fields.size("max_position_embeddings"), fields.source)


def _window(fields: Fields) -> int | None:
    return None if fields.get("sliding_window") is None else fields.size("sliding_window")


def _by_type(fields: Fields, types: list[str], ropes: Mapping[str, Rope]) -> LayerKinds:
    window = _window(fields)
    if window is None and SLIDING in types:
        raise fields.fault("sliding_window", "but layer_types has sliding layers")
    return tuple(LayerKind(ropes[kind], window if kind == SLIDING else None) for kind in types)


def _layer_types(fields: Fields, layers: int, default: list[str]) -> list[str]:
    return fields.per_layer("layer_types", (FULL, SLIDING), layers, default)


def _written_types(kinds: LayerKinds) -> dict[str, Any]:
    window = next((kind.window for kind in kinds if kind.window), None)
    types = [SLIDING if kind.window else FULL for kind in kinds]
    return {"sliding_window": window, "layer_types": types}


def _written_rope(kinds: LayerKinds) -> dict[str, Any]:
    rope = next((kind.rope for kind in kinds if kind.rope), None)
    return {} if rope is None else {"rope_parameters": rope.to_hf()}


def _alike(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Llama, OLMo 2: every layer sees everything."""
    return (LayerKind(_rope(fields, head_dim)),) * layers


def _all_slide(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Mistral: one window for all layers, or none."""
    return (LayerKind(_rope(fields, head_dim), _window(fields)),) * layers


def _write_all_slide(kinds: LayerKinds) -> dict[str, Any]:
    return {"sliding_window": kinds[0].window, **_written_rope(kinds)}


def _last_slide(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Qwen 2 and 3: windows, where switched on, from layer ``max_window_layers`` on."""
    rope = _rope(fields, head_dim)
    if not fields.flag("use_sliding_window"):
        fields = Fields({**fields.values, "sliding_window": None}, fields.source)
    first = fields.count("max_window_layers") if fields.get("sliding_window") else layers
    types = [SLIDING if layer >= first else FULL for layer in range(layers)]
    return _by_type(fields, _layer_types(fields, layers, types), {FULL: rope, SLIDING: rope})


def _write_last_slide(kinds: LayerKinds) -> dict[str, Any]:
    types = _written_types(kinds)
    return {**types, "use_sliding_window": types["sliding_window"] is not None, **_written_rope(kinds)}


def _some_without_rope(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """SmolLM3: layers without RoPE at a regular distance; windows, where switched on, in those."""
    rope, interval = _rope(fields, head_dim), fields.size("no_rope_layer_interval")
    every = [int((layer + 1) % interval != 0) for layer in range(layers)]
    rotated = fields.per_layer("no_rope_layers", (0, 1), layers, every)
    window = _window(fields) if fields.flag("use_sliding_window") else None
    types = [SLIDING if window and not one else FULL for one in rotated]
    kinds = _by_type(fields, _layer_types(fields, layers, types), {FULL: rope, SLIDING: rope})
    return tuple(
        LayerKind(rope if one else None, kind.window) for one, kind in zip(rotated, kinds, strict=True)
    )


def _write_some_without_rope(kinds: LayerKinds) -> dict[str, Any]:
    return {**_write_last_slide(kinds), "no_rope_layers": [int(kind.rope is not None) for kind in kinds]}


def _every_second_full(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Gemma 2: sliding and full layers take turns."""
    rope = _rope(fields, head_dim)
    types = [FULL if layer % 2 else SLIDING for layer in range(layers)]
    return _by_type(fields, _layer_types(fields, layers, types), {FULL: rope, SLIDING: rope})


def _write_by_type(kinds: LayerKinds) -> dict[str, Any]:
    return {**_written_types(kinds), **_written_rope(kinds)}


def _two_ropes(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Gemma 3: every sixth layer is full; sliding layers have a RoPE of their own, never scaled by
    ``rope_scaling``."""
    given, scaling = _mapping(fields, "rope_parameters"), _mapping(fields, "rope_scaling")
    full = {"rope_theta": fields.get("rope_theta"), **(given.get(FULL) or {}), **scaling}
    local = {"rope_theta": fields.get("rope_local_base_freq"), **(given.get(SLIDING) or {})}
    ropes = {FULL: _rope(fields, head_dim, full), SLIDING: _rope(fields, head_dim, local)}
    pattern = fields.size("sliding_window_pattern")
    types = [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]
    return _by_type(fields, _layer_types(fields, layers, types), ropes)


def _write_two_ropes(kinds: LayerKinds) -> dict[str, Any]:
    ropes = {SLIDING if kind.window else FULL: kind.rope.to_hf() for kind in kinds if kind.rope}
    return {**_written_types(kinds), "rope_parameters": ropes}


def _partly_rotated(fields: Fields, head_dim: int, layers: int) -> LayerKinds:
    """Phi-3: RoPE over a part of each head, LongRoPE under two older names."""
    parameters = rope_parameters(fields)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    parameters["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    rope = Rope.from_hf(parameters, head_dim, fields.size("max_position_embeddings"), fields.source)
    return (LayerKind(rope, _window(fields)),) * layers


def _write_partly_rotated(kinds: LayerKinds) -> dict[str, Any]:
    keys, outer = _write_all_slide(kinds), "original_max_position_embeddings"
    rope = keys["rope_parameters"]
    return {**keys, outer: rope[outer]} if outer in rope else keys


_AROUND = {"norms": "around", "norm_offset": 1.0, "scaled_embedding": True}
_GEMMA_READS = {
    "hidden_activation": "activation",
    "query_pre_attn_scalar": "query_scalar",
    "final_logit_softcapping": "final_softcap",
}
_GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_QWEN_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM", _alike, _written_rope, reads=_SILU, biases=_ATTENTION_BIAS | _MLP_BIAS
    ),
    "mistral": Family(
        "MistralForCausalLM",
        _all_slide,
        _write_all_slide,
        reads=_SILU,
        defaults={"sliding_window": 4096},
        only={"layer_types": None},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        _last_slide,
        _write_last_slide,
        sets={"biases": QKV},
        reads=_SILU,
        defaults=_QWEN_DEFAULTS,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _last_slide,
        _write_last_slide,
        sets={"qk_norm": "head"},
        reads=_SILU,
        biases=_ATTENTION_BIAS,
        defaults=_QWEN_DEFAULTS | {"head_dim": 128},
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        _some_without_rope,
        _write_some_without_rope,
        reads=_SILU,
        biases=_ATTENTION_BIAS | _MLP_BIAS,
        defaults={"rope_theta": 2_000_000.0, "no_rope_layer_interval": 4, "tie_word_embeddings": True},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _every_second_full,
        _write_by_type,
        sets=_AROUND,
        reads=_GEMMA_READS | {"attn_logit_softcapping": "attention_softcap"},
        biases=_ATTENTION_BIAS,
        defaults=_GEMMA_DEFAULTS | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _two_ropes,
        _write_two_ropes,
        sets=_AROUND | {"qk_norm": "head"},
        reads=_GEMMA_READS,
        biases=_ATTENTION_BIAS,
        defaults=_GEMMA_DEFAULTS
        | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
        # transformers ignores it in this family; no such model sets it.
        only={"attn_logit_softcapping": None},
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        _alike,
        _written_rope,
        sets={"norms": "after", "qk_norm": "projection"},
        reads=_SILU,
        biases=_ATTENTION_BIAS,
        only={"clip_qkv": None},
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        _partly_rotated,
        _write_partly_rotated,
        reads=_SILU,
        defaults={"original_max_position_embeddings": 4096},
        only={"resid_pdrop": 0, "embd_pdrop": 0},
        fused={
            **dict.fromkeys(QKV, "self_attn.qkv_proj"),
            **dict.fromkeys(("gate_proj", "up_proj"), "mlp.gate_up_proj"),
        },
    ),
}
