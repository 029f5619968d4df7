"""Phi-3 and Phi-4-mini: fused tensors on disk, RoPE over a part of each head."""

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import family
from cann_jax.models.families.family import GATE_UP, QKV, Family, LayerKind, LayerKinds
from cann_jax.models.rope import Rope


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    """Return layers that are alike; LongRoPE has two older names."""
    parameters = family.rope_parameters(config)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    parameters["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    rope = Rope.from_hf(parameters, head_dim, config.size("max_position_embeddings"), config.source)
    return (LayerKind(rope, family.read_window(config)),) * layers


PHI3 = Family(
    "Phi3ForCausalLM",
    _kinds,
    ("sliding_window",),
    defaults={"original_max_position_embeddings": 4096},
    only={"resid_pdrop": 0, "embd_pdrop": 0},
    fused={**dict.fromkeys(QKV, "self_attn.qkv_proj"), **dict.fromkeys(GATE_UP, "mlp.gate_up_proj")},
)
