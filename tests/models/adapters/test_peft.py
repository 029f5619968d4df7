"""Adapters in PEFT's format: ours open in peft on torch and peft's open here, to the same logits."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file

from cann_jax.files.errors import InputError
from cann_jax.models.adapters.peft import CONFIG, WEIGHTS, export_adapter
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.linear import LoraParam
from tests.builders.damage import damaged
from tests.builders.forward import our_logits, random_ids
from tests.builders.models import save_tiny, tiny_torch

IDS = random_ids((2, 17))


def logits_of(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def moved(decoder):
    """The decoder with adapters that do something."""
    graph, adapters, rest = nnx.split(decoder, LoraParam, ...)
    leaves, tree = jax.tree.flatten(adapters)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    new = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, new), rest)


def test_adapter_of_ours_opens_in_peft(tiny_files, tiny, tiny_folder, every_target, tmp_path):
    adapted = moved(load_decoder(tiny_files, "float32", every_target))
    export_adapter(adapted, tmp_path, str(tiny_folder), tiny_files.fingerprint(), revision="v1.2")
    theirs = PeftModel.from_pretrained(tiny_torch(), tmp_path)
    assert not theirs.training and theirs.peft_config["default"].r == every_target.rank
    assert theirs.peft_config["default"].revision == "v1.2"
    expected = our_logits(adapted, IDS)
    assert np.abs(expected - our_logits(tiny, IDS)).max() > 0.1
    np.testing.assert_allclose(logits_of(theirs), expected, atol=1e-4)
    reopened = load_decoder(open_model(str(tiny_folder), adapter=str(tmp_path)), "float32")
    np.testing.assert_allclose(our_logits(reopened, IDS), expected, atol=1e-4)


def save_theirs(folder: Path, **changes) -> np.ndarray:
    """A random adapter of peft's on the tiny model; returns the logits with it."""
    settings = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "down_proj"], **changes}
    model = get_peft_model(tiny_torch(), PeftConfig(task_type="CAUSAL_LM", **settings)).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return logits_of(model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [1], "lora_dropout": 0.3, "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_adapter_of_peft_opens_here(tiny, tiny_folder, tmp_path, changes):
    expected = save_theirs(tmp_path, **changes)
    files = open_model(str(tiny_folder), adapter=str(tmp_path))
    got = our_logits(load_decoder(files, "float32"), IDS)
    assert np.abs(got - our_logits(tiny, IDS)).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert {tmp_path / CONFIG, tmp_path / WEIGHTS} <= set(files.files)
    assert files.fingerprint() != open_model(str(tiny_folder)).fingerprint()


def test_a_part_of_a_merged_tensor(tiny_folder, tmp_path):
    save_theirs(tmp_path)
    reader = open_model(str(tiny_folder), adapter=str(tmp_path)).readers[
        "model.layers.1.mlp.down_proj.weight"
    ]
    for index in ((slice(3, 9), slice(0, 40)), (slice(3, 9),)):
        np.testing.assert_allclose(reader(index), reader()[index], rtol=1e-5)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    save_theirs(folder)
    return folder


@pytest.fixture
def copy(theirs, tmp_path) -> Path:
    return Path(shutil.copytree(theirs, tmp_path / "copy"))


def refused(model: Path, adapter: Path) -> str:
    with pytest.raises(InputError) as error:
        load_decoder(open_model(str(model), adapter=str(adapter)), "float32")
    assert "\n" not in str(error.value) and str(adapter) in str(error.value)
    return str(error.value)


UNSUPPORTED = {
    "peft_type 'IA3'": {"peft_type": "IA3"},
    "use_dora True": {"use_dora": True},
    "rank_pattern {'q_proj': 4}": {"rank_pattern": {"q_proj": 4}},
    "alpha_pattern {'q_proj': 4}": {"alpha_pattern": {"q_proj": 4}},
    "modules_to_save ['lm_head']": {"modules_to_save": ["lm_head"]},
    "bias 'all'": {"bias": "all"},
    "lora_bias True": {"lora_bias": True},
    "fan_in_fan_out True": {"fan_in_fan_out": True},
    "layer_replication [[0, 2]]": {"layer_replication": [[0, 2]]},
    "init_lora_weights 'pissa'": {"init_lora_weights": "pissa"},
    "of_the_future 1": {"of_the_future": 1},
    "r is 5 and the weights have rank 3": {"r": 5},
    "r 0 and lora_alpha 7": {"r": 0},
    "lora_alpha None": {"lora_alpha": None},
}


@pytest.mark.parametrize("said", UNSUPPORTED)
def test_unsupported_field(said, copy, tiny_folder):
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**config, **UNSUPPORTED[said]}))
    assert said in refused(tiny_folder, copy)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
EDITS = {
    "q_proj has only lora_A": lambda t: t.pop(Q.format("B")),
    "the model has no model.layers.7.self_attn.q_proj.weight": lambda t: t.update(
        {Q.format(half).replace(".0.", ".7."): t[Q.format(half)] for half in "AB"}
    ),
    "has shape (64, 64) and the adapter's A (3, 32)": lambda t: t.update(
        {Q.format("A"): np.zeros((3, 32), "f4")}
    ),
    "embed_tokens.lora_embedding_A is not supported": lambda t: t.update(
        {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((3, 300), "f4")}
    ),
    "lora_magnitude_vector": lambda t: t.update(
        {Q.format("A").replace("lora_A", "lora_magnitude_vector"): np.zeros(64, "f4")}
    ),
    "holds no tensor": lambda t: t.clear(),
}


@pytest.mark.parametrize("said", EDITS)
def test_adapter_that_does_not_fit(said, copy, tiny_folder):
    tensors = dict(load_file(copy / WEIGHTS))
    EDITS[said](tensors)
    save_file(tensors, copy / WEIGHTS)
    assert said in refused(tiny_folder, copy)


def test_adapter_of_a_wider_model(theirs, tmp_path):
    folder = save_tiny(tmp_path / "wide", intermediate_size=128)
    assert "use the adapter's own base model" in refused(folder, theirs)


def test_adapter_that_is_not_whole(copy, tiny_folder, tmp_path):
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:-9])
    assert "truncated or corrupt" in refused(tiny_folder, copy)
    for kind in ("half", "empty"):
        with damaged(copy / "adapter_config.json", kind):
            assert "adapter_config.json is not valid JSON" in refused(tiny_folder, copy)
    (copy / WEIGHTS).unlink()
    assert "adapter_model.safetensors is missing" in refused(tiny_folder, copy)
    assert "adapter_config.json is missing" in refused(tiny_folder, tmp_path / "nothing")
