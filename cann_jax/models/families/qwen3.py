"""Qwen 3, dense: windows as in Qwen 2; norms of each head's q and k."""

from cann_jax.models.families.family import ATTENTION_BIAS, Family
from cann_jax.models.families.layer_kinds import write_switched_types
from cann_jax.models.families.qwen2 import QWEN_DEFAULTS, last_layers_slide

QWEN3 = Family(
    "Qwen3ForCausalLM",
    last_layers_slide,
    write_switched_types,
    sets={"qk_norm": "head"},
    biases=ATTENTION_BIAS,
    defaults=QWEN_DEFAULTS | {"head_dim": 128},
)
