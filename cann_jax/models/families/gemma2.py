"""Gemma 2: scaled embeddings, norms around attention and MLP, soft-caps, alternating windows."""

from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families.family import ATTENTION_BIAS, Family
from cann_jax.models.families.layer_kinds import (
    FULL,
    SLIDING,
    LayerKinds,
    kinds_of_types,
    read_rope,
    write_types,
)

GEMMA_SETS = {"norms": "around", "norm_offset": 1.0, "scaled_embedding": True}
GEMMA_READS = {
    "hidden_activation": "activation",
    "query_pre_attn_scalar": "query_scalar",
    "final_logit_softcapping": "final_softcap",
}
GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def _kinds(config: ConfigReader, head_dim: int, layers: int) -> LayerKinds:
    rope = read_rope(config, head_dim)
    types = [FULL if layer % 2 else SLIDING for layer in range(layers)]
    return kinds_of_types(config, types, rope, rope)


GEMMA2 = Family(
    "Gemma2ForCausalLM",
    _kinds,
    write_types,
    sets=GEMMA_SETS,
    reads=GEMMA_READS | {"attn_logit_softcapping": "attention_softcap"},
    biases=ATTENTION_BIAS,
    defaults=GEMMA_DEFAULTS | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
)
