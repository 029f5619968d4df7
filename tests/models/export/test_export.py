"""An exported model is the model that was trained: torch opens it and computes the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import AutoTokenizer

from cann_jax.models.export import folder as export
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.linear import LoraParam
from tests.builders.forward import folder_logits, our_logits, random_ids, torch_logits

IDS = random_ids((2, 17))


@pytest.fixture(scope="module")
def adapted(tiny_files, every_target):
    """The tiny model with adapters that do something."""
    decoder = load_decoder(tiny_files, "float32", every_target)
    graph, adapters, rest = nnx.split(decoder, LoraParam, ...)
    leaves, tree = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved), rest)


def test_adapters_are_merged(adapted, tiny, tiny_files, tmp_path):
    export_folder(adapted, tiny_files, tmp_path)
    expected = our_logits(adapted, IDS)
    assert np.abs(expected - our_logits(tiny, IDS)).max() > 0.1
    np.testing.assert_allclose(torch_logits(tmp_path, IDS), expected, atol=1e-5)
    np.testing.assert_allclose(folder_logits(tmp_path, IDS), expected, atol=1e-5)


def test_plain_export_is_exact(tiny, tiny_files, tmp_path):
    export_folder(tiny, tiny_files, tmp_path)
    np.testing.assert_array_equal(folder_logits(tmp_path, IDS), our_logits(tiny, IDS))


def test_many_shards_replace_the_ones_before(tiny, tiny_files, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD_BYTES", 60_000)
    export_folder(tiny, tiny_files, tmp_path)
    many = {path.name for path in tmp_path.glob("*.safetensors")}
    named = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values()
    assert len(many) > 2 and many == set(named)
    np.testing.assert_allclose(torch_logits(tmp_path, IDS), our_logits(tiny, IDS), atol=1e-5)
    monkeypatch.undo()
    export_folder(tiny, tiny_files, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_export_rounds_once(tiny, tiny_files, tmp_path, dtype):
    export_folder(tiny, tiny_files, tmp_path, dtype)
    reloaded = load_decoder(open_model(str(tmp_path)), "float32")
    for old, new in zip(*(jax.tree.leaves(nnx.state(d)) for d in (tiny, reloaded)), strict=True):
        np.testing.assert_array_equal(new, jnp.asarray(old).astype(dtype).astype("float32"))


def test_tokenizer_and_template_leave_too(tiny, tiny_files, tmp_path):
    export_folder(tiny, tiny_files, tmp_path)
    messages = [{"role": "user", "content": "Hello there"}]
    ours = tiny_files.tokenizer.apply_chat_template(messages, return_dict=False)
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages, return_dict=False) == ours
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["dtype"]) == (0, 1, "float32")
