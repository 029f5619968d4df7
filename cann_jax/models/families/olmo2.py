"""OLMo 2: norms after attention and MLP, norms of all of q and all of k."""

from cann_jax.models.families.family import ATTENTION_BIAS, Family

OLMO2 = Family(
    "Olmo2ForCausalLM",
    sets={"norms": "after", "qk_norm": "projection"},
    biases=ATTENTION_BIAS,
    only={"clip_qkv": None},
)
