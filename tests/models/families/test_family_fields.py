"""Every key that transformers gives a meaning is read or refused by name; left out, it means the same."""

import json
import math
from dataclasses import fields

import pytest

from cann_jax.files.errors import InputError
from cann_jax.models.config import ONLY_EVERYWHERE, DecoderConfig
from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import FAMILIES

FULL, SLIDING = "full_attention", "sliding_attention"
SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
}  # fmt: skip


def read(family: str, **keys) -> DecoderConfig:
    return DecoderConfig.from_hf({"model_type": family, **SIZES, **keys}, "config.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_left_out_take_transformers_defaults(family):
    """A file of sizes alone means what transformers takes it for, written out in full."""
    from transformers import AutoConfig

    full = json.loads(json.dumps(AutoConfig.for_model(family, **SIZES).to_dict()))
    assert read(family) == DecoderConfig.from_hf(full, "config.json")


@pytest.mark.parametrize("key", ONLY_EVERYWHERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_changes_the_mathematics_everywhere(family, key):
    with pytest.raises(InputError, match=f"config.json: {key} 0.5 is not supported; use a model with"):
        read(family, **{key: 0.5})


# Of training, of generation, or read by nothing in transformers' modeling files of these families.
HARMLESS = {
    "initializer_range",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "pretraining_tp",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_transformers_is_read(family, monkeypatch):
    """So no key that it gives a meaning in this family is passed over."""
    from transformers import AutoConfig, PreTrainedConfig

    get, seen = ConfigReader.get, set()
    monkeypatch.setattr(ConfigReader, "get", lambda self, key: (seen.add(key), get(self, key))[1])
    # Switched on, so that what hangs on the switch is read too.
    read(family, use_sliding_window=True, sliding_window=4)
    own, common = (
        {item.name for item in fields(kind)}
        for kind in (type(AutoConfig.for_model(family, **SIZES)), PreTrainedConfig)
    )
    assert len(own - common) > 10
    assert own - common - HARMLESS <= seen


REFUSED = [
    ("mistral", {"layer_types": [FULL] * 4}, "layer_types"),
    ("mistral", {"sliding_window": -1}, "sliding_window is -1, which is not a positive number"),
    ("mistral", {"sliding_window": 2.5}, "sliding_window is 2.5, which is not an integer"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes', which is neither true nor false"),
    (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": "2"},
        "max_window_layers is '2', which is not an integer",
    ),
    ("qwen2", {"layer_types": [SLIDING] * 4}, "sliding_window is None, but layer_types has sliding layers"),
    ("qwen3", {"layer_types": [FULL, "chunked_attention"] * 2}, "layer_types"),
    ("qwen3", {"layer_types": [FULL] * 3}, "not a list of 4 values from full_attention, sliding_attention"),
    (
        "smollm3",
        {"no_rope_layers": [1, 2, 1, 0]},
        "no_rope_layers is [1, 2, 1, 0], which is not a list of 4",
    ),
    (
        "gemma2",
        {"final_logit_softcapping": 0},
        "final_logit_softcapping is 0, which is not a positive",
    ),
    ("gemma2", {"hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not supported"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    ("gemma3", {}, "model_type 'gemma3' is not supported"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
    ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop 0.1 is not supported"),
    ("qwen2", {"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "has no 'mrope_section'"),
    ("llama", {"hidden_act": ["silu"]}, "hidden_act ['silu'] is not supported"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, where 1000 are the most"),
    ("llama", {"vocab_size": 2**40}, "vocab_size is 1099511627776, which is not an integer up to 2147483647"),
    ("llama", {"rms_norm_eps": math.inf}, "rms_norm_eps is inf, which is not a positive number"),
    ("llama", {"rope_parameters": {"rope_type": ["yarn"]}}, "RoPE scaling ['yarn'] is not supported"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 0}},
        "RoPE's original_max_position_embeddings is 0, which is not valid",
    ),
    (
        "gemma3_text",
        {"rope_parameters": {FULL: 5}},
        "rope_parameters is {'full_attention': 5}, which is not a JSON object",
    ),
    ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported in this family"),
]


@pytest.mark.parametrize(("family", "keys", "said"), REFUSED)
def test_refused_by_name(family, keys, said):
    with pytest.raises(InputError) as error:
        read(family, **keys)
    assert said in str(error.value) and str(error.value).startswith("config.json: ")
