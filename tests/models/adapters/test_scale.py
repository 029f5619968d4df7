"""The scale of a trained adapter: in its weights, in alpha for peft, and merged: one policy."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from peft import PeftModel
from safetensors.numpy import load_file

from cann_jax.config.export import FORMATS
from cann_jax.config.model import ModelConfig
from cann_jax.config.run import SampleConfig
from cann_jax.models.adapters.peft import CONFIG, WEIGHTS, export_adapter
from cann_jax.models.adapters.scale import is_zero, scaled, scaled_decoder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.run.exports import GGUF_FILE, write_model
from cann_jax.run.training import split
from tests.builders.forward import folder_logits, our_logits, torch_logits
from tests.builders.models import tiny_torch
from tests.models.adapters.test_peft import IDS, logits_of, moved


@pytest.fixture(scope="module")
def adapted(tiny_files, every_target):
    """The tiny model with adapters that do something."""
    return moved(load_decoder(tiny_files, "float32", every_target))


def test_only_the_second_factor_is_scaled(adapted, every_target):
    model = split(adapted, every_target)
    found = scaled(model.reference, 0.25)
    before, after = (dict(nnx.to_flat_state(state)) for state in (model.reference, found))
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        factor = {"a": 1.0, "b": 0.25}[path[-1]]
        np.testing.assert_array_equal(after[path][...], factor * leaf[...])
    logits = our_logits(model.decoder(found), IDS)
    np.testing.assert_array_equal(logits, our_logits(scaled_decoder(adapted, 0.25), IDS))
    assert np.abs(logits - our_logits(adapted, IDS)).max() > 0.1


def test_under_jit_the_scale_may_be_traced(adapted, every_target):
    weights = split(adapted, every_target).reference
    found = jax.jit(scaled)(weights, 0.3)
    for a, b in zip(*(jax.tree.leaves(each) for each in (found, scaled(weights, 0.3))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.5])
def test_scaled_adapter_in_peft_and_merged(scale, adapted, tiny, tiny_files, tiny_folder, tmp_path):
    """Alpha is scaled and B is not; every way to open what was written gives the scaled policy."""
    expected = our_logits(scaled_decoder(adapted, scale), IDS)
    assert (np.abs(expected - our_logits(tiny, IDS)).max() > 0.1) == (scale > 0)
    config = SimpleNamespace(model=ModelConfig(path=str(tiny_folder), dtype="float32"), sample=SampleConfig())
    for form in FORMATS:
        write_model(SimpleNamespace(config=config, files=tiny_files), form, adapted, scale, tmp_path / form)
    export_adapter(adapted, tmp_path / "plain", str(tiny_folder), tiny_files.fingerprint())
    for name, factor in (("plain", 1.0), ("adapter", scale)):
        assert json.loads((tmp_path / name / CONFIG).read_text())["lora_alpha"] == 8.0 * factor
    tensors = [load_file(tmp_path / name / WEIGHTS) for name in ("plain", "adapter")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    theirs = PeftModel.from_pretrained(tiny_torch(), tmp_path / "adapter")
    np.testing.assert_allclose(logits_of(theirs), expected, atol=1e-4)
    reopened = load_decoder(open_model(str(tiny_folder), adapter=str(tmp_path / "adapter")), "float32")
    np.testing.assert_allclose(our_logits(reopened, IDS), expected, atol=1e-4)
    np.testing.assert_allclose(torch_logits(tmp_path / "merged", IDS), expected, atol=1e-4)
    for merged in (tmp_path / "merged", tmp_path / "gguf" / GGUF_FILE):
        np.testing.assert_allclose(folder_logits(merged, IDS), expected, atol=1e-4)


def test_a_new_adapter_is_zero_and_a_trained_one_is_not(tiny_files, adapted, every_target):
    fresh = load_decoder(tiny_files, "float32", every_target)
    assert is_zero(split(fresh, every_target).reference)
    assert not is_zero(split(adapted, every_target).reference)
    assert is_zero(scaled(split(adapted, every_target).reference, 0.0))


def test_weights_without_an_adapter_have_no_scale(tiny):
    weights = split(tiny, None).reference
    for function in (lambda: scaled(weights, 0.5), lambda: is_zero(weights)):
        with pytest.raises(ValueError, match="no adapter among the weights"):
            function()
