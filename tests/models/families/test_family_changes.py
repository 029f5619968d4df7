"""Every key that a family reads moves the logits to where torch's move."""

import numpy as np
import pytest

from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from tests.builders.families import ours, padded, save_family, theirs
from tests.builders.forward import changed_copy

BATCH = padded("right")
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
]


def logits_of(folder) -> np.ndarray:
    return ours(load_decoder(open_model(str(folder)), "float32"), BATCH)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's folder and its logits, made when first asked for."""
    made = {}

    def folder(family: str):
        if family not in made:
            path = save_family(tmp_path_factory.mktemp(family), family)
            made[family] = path, logits_of(path)
        return made[family]

    return folder


@pytest.mark.parametrize(
    ("family", "changes"), CHANGES, ids=lambda x: x if isinstance(x, str) else "+".join(x)
)
def test_same_weights_under_another_configuration(family, changes, folders, tmp_path):
    original, before = folders(family)
    folder = changed_copy(original, tmp_path / "changed", **changes)
    logits = logits_of(folder)
    assert np.abs(logits - before).max() > 1e-3
    np.testing.assert_allclose(logits, theirs(folder, BATCH)[0], atol=1e-4)


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
        ours(load_decoder(files, "float32"), BATCH)[0], theirs(tmp_path, BATCH)[0], atol=1e-4
    )
    written = files.config.to_hf()
    assert {key: written[key] for key in changes} == changes
