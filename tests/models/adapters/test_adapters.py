"""Adapters beside shared weights: equal to merged ones, and no array of the base is copied."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cann_jax.files.errors import InputError
from cann_jax.models.adapters.attach import attach_adapter, open_attachable
from cann_jax.models.adapters.peft import CONFIG, PREFIX, WEIGHTS, export_adapter
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.linear import LoraParam
from tests.builders.families import save_family
from tests.builders.forward import our_logits, random_ids
from tests.builders.models import save_tiny
from tests.models.adapters.test_peft import moved, save_theirs

IDS = random_ids((2, 17))


@pytest.fixture
def model(tiny, tiny_files) -> LanguageModel:
    return LanguageModel.of(tiny, tiny_files)


@pytest.fixture
def ours(tiny_files, every_target, tmp_path) -> Path:
    """An adapter of ours on the tiny model."""
    decoder = moved(load_decoder(tiny_files, "float32", every_target))
    export_adapter(decoder, tmp_path / "adapter", "tiny", tiny_files.fingerprint())
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"layers_to_transform": [1]}],
    ids=str,
)
def test_equals_peft(model, tiny, tmp_path, changes):
    expected = save_theirs(tmp_path, **changes)
    adapted = attach_adapter(model, open_attachable(model.files, tmp_path))
    assert np.abs(our_logits(tiny, IDS) - expected).max() > 0.1
    np.testing.assert_allclose(our_logits(adapted.decoder, IDS), expected, atol=1e-4)


def test_the_base_is_shared(model, ours):
    """Every base array is the reference's own buffer."""
    adapted = attach_adapter(model, open_attachable(model.files, ours))
    adapters, rest = nnx.state(adapted.decoder, LoraParam, ...)
    own = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(model.weights)}
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(rest)} == own
    assert not {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(adapters)} & own


def test_equal_shapes_share_one_program(model, ours):
    """Two adapters of one kind are the same static graph: one compilation serves both."""
    first, second = (attach_adapter(model, open_attachable(model.files, ours)) for _ in range(2))
    assert first.graph == second.graph and hash(first.graph) == hash(second.graph)


def test_an_adapter_of_another_base(ours, tmp_path):
    """Of equal shapes, so that nothing but the fingerprint tells; merging refuses it too."""
    twin = save_tiny(tmp_path / "twin", seed=1)
    with pytest.raises(InputError, match=r"was trained on another model .*use the adapter's own base model"):
        open_attachable(open_model(str(twin)), ours)
    with pytest.raises(InputError, match="was trained on another model"):
        open_model(str(twin), adapter=str(ours))


def test_a_fused_layer(tmp_path):
    """Phi-3 keeps q, k and v in one tensor, and PEFT adapts them as one."""
    files = open_model(str(save_family(tmp_path / "phi3", "phi3")))
    layer = next(name for name in files.readers if "qkv_proj" in name).removesuffix(".weight")
    rows, columns = files.readers[f"{layer}.weight"].shape
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    halves = {"lora_A": np.ones((2, columns), "f4"), "lora_B": np.ones((rows, 2), "f4")}
    tensors = {f"{PREFIX}{layer}.{half}.weight": array for half, array in halves.items()}
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InputError, match="qkv_proj cannot be attached to the weights"):
        open_attachable(files, folder)
