"""A folder that is incomplete or unsupported gives one line that names the file and what to do."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cann_jax.files.errors import InputError
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from tests.builders.damage import damaged
from tests.builders.forward import changed_copy
from tests.builders.models import save_tiny

WEIGHTS = "model.safetensors"


def refused(folder: Path) -> str:
    """The message with which opening and loading ``folder`` fails."""
    with pytest.raises(InputError) as error:
        load_decoder(open_model(str(folder)), "float32")
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def copy(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sharded"), max_shard_size="60KB")


def edit_weights(folder: Path, edit) -> None:
    tensors = dict(load_file(folder / WEIGHTS))
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_configurations_that_cannot_be_read(copy):
    path = copy / "config.json"
    path.write_text("[" * 100_000)
    assert "config.json is not valid JSON (maximum recursion depth" in refused(copy)
    path.unlink()
    path.mkdir()
    assert "config.json cannot be read (Is a directory)" in refused(copy)


def test_missing_weight(copy):
    edit_weights(copy, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "1 missing (model.layers.1.mlp.up_proj.weight)" in refused(copy)


def test_unexpected_weight(copy):
    edit_weights(
        copy, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(64, "f4")})
    )
    assert "1 unexpected (model.layers.0.self_attn.q_proj.bias)" in refused(copy)


def test_missing_and_unexpected_are_told_at_once(copy):
    def rename(tensors):
        tensors["model.norm.scale"] = tensors.pop("model.norm.weight")

    edit_weights(copy, rename)
    assert "1 missing (model.norm.weight); 1 unexpected (model.norm.scale)" in refused(copy)


def test_wrong_shape(copy):
    edit_weights(
        copy,
        lambda tensors: tensors.update({"model.layers.2.mlp.down_proj.weight": np.zeros((96, 64), "f4")}),
    )
    message = refused(copy)
    assert "model.layers.2.mlp.down_proj.weight has shape (96, 64), config.json asks for (64, 96)" in message


def test_integers_are_no_weights(copy):
    edit_weights(copy, lambda tensors: tensors.update({"model.norm.weight": np.ones(64, "i1")}))
    assert "model.norm.weight is int8" in refused(copy)


def test_duplicate_weight_in_two_files(copy):
    save_file({"model.norm.weight": np.ones(64, "f4")}, copy / "stale.safetensors")
    message = refused(copy)
    assert "model.norm.weight" in message and "stale.safetensors" in message and "remove" in message


def test_copy_of_a_tied_head_and_rope_frequencies_are_let_pass(copy):
    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, "f4")

    edit_weights(copy, add)
    load_decoder(open_model(str(copy)), "float32")


def test_a_tied_head_that_is_no_copy_is_refused(copy):
    def add(tensors):
        head = tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        head[-1, -1] += 1e-3

    edit_weights(copy, add)
    assert "config.json ties lm_head.weight to the embedding, and the tensors differ" in refused(copy)


def test_hidden_files_hold_no_weights(copy):
    (copy / "._model.safetensors").write_bytes(b"\x00\x05\x16\x07")  # what macOS leaves beside a file
    load_decoder(open_model(str(copy)), "float32")


@pytest.mark.parametrize("kept", [0, 7, 5000, -1])
def test_truncated_weights(copy, kept):
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:kept])
    message = refused(copy)
    assert WEIGHTS in message and "truncated or corrupt" in message and "copy it again" in message


def test_no_weights(copy):
    (copy / WEIGHTS).unlink()
    assert "model.safetensors is missing" in refused(copy)


def test_missing_shard_of_the_index(sharded, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    assert f"{gone.name} is missing" in refused(folder)


def test_each_file_cut_off(sharded, tmp_path):
    """Of a flipped byte, a folder of weights cannot tell; a run sees it as another model."""
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    paths = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
    assert len(paths) > 5
    for path in paths:
        for kind in ("half", "empty"):
            with damaged(path, kind):
                assert path.name in refused(folder) or path.name.startswith("tokenizer"), (path, kind)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_corrupt_index(sharded, tmp_path, text):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused(folder)


def test_index_beside_a_single_file_that_it_does_not_name(sharded, tiny_folder, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    shutil.copy(tiny_folder / WEIGHTS, folder)
    assert "remove the stale one" in refused(folder)


@pytest.mark.parametrize("text", ["", '{"model_type": "lla', "[1, 2]", "\x00\x01"])
def test_corrupt_config(copy, text):
    (copy / "config.json").write_text(text)
    message = refused(copy)
    assert "config.json" in message and "copy it again" in message


def test_missing_config(copy):
    (copy / "config.json").unlink()
    assert "config.json is missing" in refused(copy)


UNSUPPORTED = {
    "model_type 'gpt2' is not supported": {"model_type": "gpt2"},
    "model_type ['llama'] is not supported": {"model_type": ["llama"]},
    "hidden_act 'relu' is not supported": {"hidden_act": "relu"},
    "attention_bias is 1": {"attention_bias": 1},
    "quantization_config": {"quantization_config": {"quant_method": "gptq"}},
    "attention_dropout 0.1 is not supported": {"attention_dropout": 0.1},
    "RoPE scaling 'ntk'": {"rope_parameters": {"rope_type": "ntk", "rope_theta": 1e4, "factor": 8.0}},
    "partial_rotary_factor": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "rope_parameters is [], which is not a JSON object": {"rope_parameters": []},
    "rope_theta is -1": {"rope_parameters": {"rope_theta": -1}},
    "hidden_size is '64'": {"hidden_size": "64"},
    "num_hidden_layers is 0": {"num_hidden_layers": 0},
    "vocab_size is 300.5": {"vocab_size": 300.5},
    "rms_norm_eps is True": {"rms_norm_eps": True},
    "lacks 'intermediate_size'": {"intermediate_size": None},
    "3 key-value heads": {"num_key_value_heads": 3},
    "head size 15": {"head_dim": 15},
}


@pytest.mark.parametrize("said", UNSUPPORTED)
def test_unsupported_configuration(said, tiny_folder, tmp_path):
    message = refused(changed_copy(tiny_folder, tmp_path / "changed", **UNSUPPORTED[said]))
    assert said in message and "config.json" in message


# Each of these is read: another value does not fit the weights any more.
SHAPED = {
    "attention_bias": True,
    "mlp_bias": True,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "tie_word_embeddings": False,
    "vocab_size": 301,
}


@pytest.mark.parametrize("field", SHAPED)
def test_field_at_odds_with_the_weights(field, tiny_folder, tmp_path):
    message = refused(changed_copy(tiny_folder, tmp_path / "changed", **{field: SHAPED[field]}))
    assert "use files of one model" in message


def test_tokenizer_larger_than_the_vocabulary(tiny_folder, tmp_path):
    folder = changed_copy(tiny_folder, tmp_path / "changed", vocab_size=299)
    assert "the tokenizer has 300 tokens and the model 299" in refused(folder)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_corrupt_tokenizer(copy, text):
    (copy / "tokenizer.json").write_text(text)
    assert re.search("no readable tokenizer|tokenizer.json is not valid JSON", refused(copy))


def test_tokenizer_setting_of_a_wrong_type(copy):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "512"}))
    assert "no readable tokenizer" in refused(copy)


def test_no_such_path(tmp_path):
    assert "neither a folder nor a .gguf file" in refused(tmp_path / "nothing")


def test_untied_head_is_loaded_from_its_own_weight(tmp_path):
    save_tiny(tmp_path, tie_word_embeddings=False)
    decoder = load_decoder(open_model(str(tmp_path)), "float32")
    head = load_file(tmp_path / WEIGHTS)["lm_head.weight"]
    np.testing.assert_array_equal(decoder.head, head)
    assert np.abs(head - decoder.embedding[...]).max() > 0.1


def test_config_is_written_as_it_was_read(tiny_files, tiny_folder):
    written = tiny_files.config.to_hf()
    original = json.loads((tiny_folder / "config.json").read_text())
    assert written.pop("rope_theta") == written["rope_parameters"]["rope_theta"]  # for transformers 4
    assert {key: original[key] for key in written} == written
