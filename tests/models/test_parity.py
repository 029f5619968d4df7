"""The decoder computes what transformers computes on torch, for every configuration field that it reads."""

import numpy as np
import pytest

from cann_jax.models.bfloat16_words import from_words
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from tests.builders.forward import changed_copy, folder_logits, our_logits, random_ids, torch_logits
from tests.builders.models import save_tiny

IDS = random_ids((2, 17))

SHAPES = {
    "grouped, tied": {},
    "untied": {"tie_word_embeddings": False},
    "one key-value head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 4},
    "heads wider than hidden": {"head_dim": 32},
    "sharp norm": {"rms_norm_eps": 0.3},
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_logits_equal_torch(changes, tmp_path):
    save_tiny(tmp_path, **changes)
    expected = torch_logits(tmp_path, IDS)
    assert np.ptp(expected) > 1  # a model whose logits are all alike would prove nothing
    np.testing.assert_allclose(folder_logits(tmp_path, IDS), expected, atol=1e-4)


REREAD = {
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "rope_theta of older files": {"rope_parameters": None, "rope_theta": 50.0},
    "rms_norm_eps": {"rms_norm_eps": 0.1},
    "heads": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
}


@pytest.mark.parametrize("changes", REREAD.values(), ids=REREAD)
def test_same_weights_under_another_configuration(changes, tiny, tiny_folder, tmp_path):
    """Fields that change no shape are read too: the logits move, to where torch's move."""
    folder = changed_copy(tiny_folder, tmp_path / "changed", **changes)
    logits = folder_logits(folder, IDS)
    assert np.abs(logits - our_logits(tiny, IDS)).max() > 1e-2
    np.testing.assert_allclose(logits, torch_logits(folder, IDS), atol=1e-4)


def test_positions_past_2048(tiny, tiny_folder):
    ids = random_ids((1, 2200))
    np.testing.assert_allclose(our_logits(tiny, ids), torch_logits(tiny_folder, ids), atol=1e-4)


def test_many_shards_equal_one(tiny, tmp_path):
    save_tiny(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    np.testing.assert_array_equal(folder_logits(tmp_path, IDS), our_logits(tiny, IDS))


def test_bfloat16_close_to_float32(tiny, tiny_files):
    """Factors rounded to 8 bits, sums float32: an error near 2^-8 of the logits' range, no more."""
    narrow = our_logits(load_decoder(tiny_files, "bfloat16"), IDS)
    wide = our_logits(tiny, IDS)
    assert narrow.dtype == np.float32
    error = np.abs(narrow - wide)
    assert 0 < error.max() < 0.03 * np.ptp(wide)
    assert error.mean() < 0.004 * np.ptp(wide)


def test_storing_wide_keeps_float32_weights(tiny_files):
    decoder = load_decoder(tiny_files, "bfloat16", wide=True)
    assert decoder.embedding[...].dtype == decoder.layers.mlp.up_proj.kernel[...].dtype == np.float32
    narrow = load_decoder(tiny_files, "bfloat16")
    assert from_words(narrow.layers.mlp.up_proj.kernel[...]).dtype == "bfloat16"
    assert narrow.final_norm.scale[...].dtype == np.float32


def test_fingerprint_changes_with_every_file(tiny_files, tiny_folder, tmp_path):
    same = changed_copy(tiny_folder, tmp_path / "copy")
    (same / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    assert open_model(str(same)).fingerprint() == tiny_files.fingerprint()
    (same / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert open_model(str(same)).fingerprint() != tiny_files.fingerprint()
