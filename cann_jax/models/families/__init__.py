"""Model families, read off transformers' modeling files; a new one is a file here and a line below."""

from cann_jax.models.families.family import Family
from cann_jax.models.families.gemma import GEMMA2, GEMMA3
from cann_jax.models.families.llama import LLAMA
from cann_jax.models.families.mistral import MISTRAL
from cann_jax.models.families.olmo2 import OLMO2
from cann_jax.models.families.phi3 import PHI3
from cann_jax.models.families.qwen import QWEN2, QWEN3
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
