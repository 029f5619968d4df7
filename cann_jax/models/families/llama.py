"""Llama 1 to 3, SmolLM2, and others of that shape."""

from cann_jax.models.families.family import ATTENTION_BIAS, MLP_BIAS, Family

LLAMA = Family("LlamaForCausalLM", biases=ATTENTION_BIAS | MLP_BIAS)
