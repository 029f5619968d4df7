"""What leaves an alignment: merged, adapter, or fully fine-tuned; others open it to the same numbers."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cann_jax.files.errors import InputError
from tests.builders.forward import folder_logits, random_ids, torch_logits

IDS = random_ids((2, 9))


def test_adapter_on_its_base_is_the_merged_model(again, copy, tiny_folder):
    said = again("--align.export", "both")
    assert 'align: settings.align.export: "merged" → "both"' in said
    align = copy / "runs/tiny/align"
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), align / "adapter"
    )
    assert theirs.peft_config["default"].base_model_name_or_path == str(tiny_folder)
    with torch.no_grad():
        adapted = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(adapted, torch_logits(align / "model", IDS), atol=1e-5)
    assert np.abs(adapted - torch_logits(tiny_folder, IDS)).max() > 1e-4
    said = again("--model.adapter", str(align / "adapter"), "--stages", "sample")
    assert "sample: inputs.model:" in said


def test_full_fine_tuning_from_end_to_end(again, copy, tiny_folder):
    said = again("--align.lora", "null")
    assert "evaluate: inputs.align:" in said
    folder = copy / "runs/tiny/align/model"
    np.testing.assert_allclose(torch_logits(folder, IDS), folder_logits(folder, IDS), atol=1e-4)
    assert np.abs(torch_logits(folder, IDS) - torch_logits(tiny_folder, IDS)).max() > 1e-4
    assert not (copy / "runs/tiny/align/adapter").exists()


def test_exports_that_cannot_be(again):
    with pytest.raises(InputError, match=r"align\.export is adapter and align\.lora null"):
        again("--align.lora", "null", "--align.export", "adapter")
    with pytest.raises(InputError, match=r"align\.export is both, but model\.adapter is a part"):
        again("--model.adapter", "somewhere", "--align.export", "both")
