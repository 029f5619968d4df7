"""Model families: one file for each, read off transformers' configuration and modeling files.

A new family is a file in this folder and a line in ``FAMILIES``.
"""

from cann_jax.models.families.family import Family
from cann_jax.models.families.gemma2 import GEMMA2
from cann_jax.models.families.gemma3 import GEMMA3
from cann_jax.models.families.llama import LLAMA
from cann_jax.models.families.mistral import MISTRAL
from cann_jax.models.families.olmo2 import OLMO2
from cann_jax.models.families.phi3 import PHI3
from cann_jax.models.families.qwen2 import QWEN2
from cann_jax.models.families.qwen3 import QWEN3
from cann_jax.models.families.smollm3 import SMOLLM3

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "olmo2": OLMO2,
    "phi3": PHI3,
}
