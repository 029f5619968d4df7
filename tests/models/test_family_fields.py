"""Every key that a family reads moves the logits to where torch's move; the rest is refused by name."""

import json
from dataclasses import fields

import numpy as np
import pytest

from cann_jax.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.families import EVERYWHERE, FAMILIES
from cann_jax.models.fields import Fields
from cann_jax.models.load import load_decoder, open_model
from tests.models.family_models import save_family
from tests.models.forward import changed_copy, folder_logits, our_logits, random_ids, torch_logits

IDS = random_ids((2, 17))
FULL, SLIDING = "full_attention", "sliding_attention"
BY_TYPE = {"rope_type": "default", "rope_theta": 50.0}

CHANGES = [
    ("mistral", {"sliding_window": 3}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"hidden_act": "gelu"}),
    ("qwen2", {"sliding_window": 3}),
    ("qwen2", {"use_sliding_window": False, "layer_types": None}),
    ("qwen2", {"max_window_layers": 0, "layer_types": None}),
    ("qwen2", {"layer_types": [FULL, SLIDING, FULL, FULL]}),
    ("qwen3", {"rms_norm_eps": 0.1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None}),
    ("smollm3", {"no_rope_layers": [0, 0, 1, 1]}),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 3}),
    ("smollm3", {"use_sliding_window": True, "sliding_window": 4, "layer_types": None}),
    ("gemma2", {"sliding_window": 3}),
    ("gemma2", {"layer_types": [FULL, SLIDING, SLIDING, FULL]}),
    ("gemma2", {"query_pre_attn_scalar": 100}),
    ("gemma2", {"attn_logit_softcapping": 0.5}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": 1.0}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"hidden_activation": "silu"}),
    ("gemma3_text", {"query_pre_attn_scalar": 100}),
    ("gemma3_text", {"final_logit_softcapping": 1.0}),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}),
    (
        "gemma3_text",
        {"rope_parameters": {FULL: BY_TYPE, SLIDING: {"rope_type": "default", "rope_theta": 1e4}}},
    ),
    (
        "gemma3_text",
        {"rope_parameters": {SLIDING: BY_TYPE, FULL: {"rope_type": "default", "rope_theta": 1e6}}},
    ),
    ("gemma3_text", {"rope_parameters": None, "rope_theta": 50.0, "rope_local_base_freq": 20.0}),
    ("gemma3_text", {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("olmo2", {"rms_norm_eps": 0.1}),
    ("phi3", {"sliding_window": None}),
    ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    (
        "phi3",
        {
            "rope_parameters": None,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0 + n for n in range(8)],
                "long_factor": [3.0] * 8,
            },
            "original_max_position_embeddings": 8,
        },
    ),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's folder and its logits, made when first asked for."""
    made = {}

    def folder(family: str):
        if family not in made:
            path = save_family(tmp_path_factory.mktemp(family), family)
            made[family] = path, folder_logits(path, IDS)
        return made[family]

    return folder


@pytest.mark.parametrize(
    ("family", "changes"), CHANGES, ids=lambda x: x if isinstance(x, str) else "+".join(x)
)
def test_same_weights_under_another_configuration(family, changes, folders, tmp_path):
    original, before = folders(family)
    folder = changed_copy(original, tmp_path / "changed", **changes)
    logits = folder_logits(folder, IDS)
    assert np.abs(logits - before).max() > 1e-3
    np.testing.assert_allclose(logits, torch_logits(folder, IDS), atol=1e-4)


BIASED = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("qwen3", {"attention_bias": True}),
    ("gemma2", {"attention_bias": True}),
    ("olmo2", {"attention_bias": True}),
]


@pytest.mark.parametrize(
    ("family", "changes"), BIASED, ids=lambda x: x if isinstance(x, str) else "+".join(x)
)
def test_biases(family, changes, tmp_path):
    save_family(tmp_path, family, **changes)
    files = open_model(str(tmp_path))
    np.testing.assert_allclose(
        our_logits(load_decoder(files, "float32"), IDS), torch_logits(tmp_path, IDS), atol=1e-4
    )
    written = files.config.to_hf()
    assert {key: written[key] for key in changes} == changes


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


@pytest.mark.parametrize("key", EVERYWHERE)
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

    get, seen = Fields.get, set()
    monkeypatch.setattr(Fields, "get", lambda self, key: (seen.add(key), get(self, key))[1])
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
    ("mistral", {"sliding_window": -1}, "sliding_window is -1, no positive number"),
    ("mistral", {"sliding_window": 2.5}, "sliding_window is 2.5, no whole number"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes', neither true nor false"),
    (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": "2"},
        "max_window_layers is '2', no whole number",
    ),
    ("qwen2", {"layer_types": [SLIDING] * 4}, "sliding_window is None, but layer_types has sliding layers"),
    ("qwen3", {"layer_types": [FULL, "chunked_attention"] * 2}, "layer_types"),
    ("qwen3", {"layer_types": [FULL] * 3}, "no list of 4 values out of full_attention, sliding_attention"),
    ("smollm3", {"no_rope_layers": [1, 2, 1, 0]}, "no_rope_layers is [1, 2, 1, 0], no list of 4 values"),
    ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping is 0, no positive number"),
    ("gemma2", {"hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not supported"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    ("gemma3", {}, "model_type 'gemma3' is not supported"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
    ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop 0.1 is not supported"),
    ("qwen2", {"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "has no 'mrope_section'"),
    ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported in this family"),
]


@pytest.mark.parametrize(("family", "keys", "said"), REFUSED)
def test_refused_by_name(family, keys, said):
    with pytest.raises(InputError) as error:
        read(family, **keys)
    assert said in str(error.value) and str(error.value).startswith("config.json: ")
