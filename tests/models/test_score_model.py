"""Score models equal torch: both layouts, normalizers, padding, any batch."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cann_jax.files.errors import InputError
from cann_jax.models.score_model import load_score_model, open_score_model
from tests.builders.score_models import (
    NORMALIZER,
    classifier_outputs,
    head_outputs,
    save_classifier,
    save_safe_rlhf,
)

KEY = "reward.scorer.path"


@pytest.fixture(scope="module")
def rows() -> list[np.ndarray]:
    """Texts of several lengths that end in no padding."""
    source = np.random.default_rng(0)
    return [source.integers(2, 300, length).astype(np.int32) for length in (5, 40, 1, 33, 5, 12, 64)]


def scores(folder, rows, batch: int = 3) -> np.ndarray:
    return load_score_model(open_score_model(str(folder), None, KEY), "float32").scores(rows, batch)


def test_classifier_equals_transformers(rows, tmp_path):
    folder = save_classifier(tmp_path)
    expected = classifier_outputs(folder, rows)
    np.testing.assert_allclose(scores(folder, rows), expected, atol=1e-4)
    assert np.ptp(expected) > 0.1
    for batch in (1, 7, 16):
        np.testing.assert_allclose(scores(folder, rows, batch), expected, atol=1e-4)


def test_classifier_reads_the_last_token_that_is_no_padding(tmp_path):
    """transformers takes the id for padding wherever a text ends with it; here it is the end token too."""
    folder = save_classifier(tmp_path)
    padded = [np.array(row, np.int32) for row in ([7, 8, 1], [7, 8, 1, 1], [7, 8], [1, 1], [7, 1, 8, 1])]
    expected = classifier_outputs(folder, padded)
    np.testing.assert_allclose(scores(folder, padded), expected, atol=1e-4)
    assert expected[0] == pytest.approx(expected[2], abs=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_safe_rlhf_equals_its_formula(rows, tmp_path, bias):
    """The last token counts, an end token that is the padding's id included."""
    folder = save_safe_rlhf(tmp_path, bias)
    ended = [np.append(row, 1).astype(np.int32) for row in rows]
    np.testing.assert_allclose(scores(folder, ended), head_outputs(folder, ended, "score_head"), atol=1e-4)


@pytest.mark.parametrize("where", ["weights", "config"])
@pytest.mark.parametrize(
    ("kind", "normalize"),
    [
        ("reward", lambda x: (x - 1.5) / (2 + 1e-8)),
        ("cost", lambda x: x / (2 + 1e-8)),
        ("critic", lambda x: x),
    ],
)
def test_normalizer(rows, tmp_path, kind, normalize, where):
    fields = {"score_type": kind, "do_normalize": True, "normalizer_type": "RunningMeanStd"}
    fields |= {"mean": [1.5], "var": [4.0]} if where == "config" else {"mean": [9.0], "var": [9.0]}
    folder = save_safe_rlhf(tmp_path, False, NORMALIZER if where == "weights" else None, **fields)
    plain = head_outputs(folder, rows, "score_head")
    np.testing.assert_allclose(scores(folder, rows), normalize(plain), atol=1e-4)


def test_normalizer_that_is_not_used(rows, tmp_path):
    folder = save_safe_rlhf(tmp_path, False, NORMALIZER, score_type="reward", do_normalize=False)
    np.testing.assert_allclose(scores(folder, rows), head_outputs(folder, rows, "score_head"), atol=1e-4)


def test_pickled_score_model(rows, tmp_path):
    """The models of 2023 are of this form."""
    folder = save_safe_rlhf(tmp_path, True)
    expected = scores(folder, rows)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(scores(folder, rows), expected)


def refused(folder, dtype: str = "float32") -> str:
    with pytest.raises(InputError) as error:
        load_score_model(open_score_model(str(folder), None, KEY), dtype)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_model_without_a_head(tiny_folder):
    assert "has neither score_head.weight nor score.weight; use a score model" in refused(tiny_folder)


def test_several_scores(tmp_path):
    message = refused(save_classifier(tmp_path, num_labels=3))
    assert "score.weight has shape (3, 64), one score needs (1, 64)" in message


def test_weight_that_has_no_place(tmp_path):
    folder = save_safe_rlhf(tmp_path, False, {"score_head.gain": 1.0})
    assert "score_head.gain has no place in a score model" in refused(folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("score_head.gain")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    assert "1 missing (model.norm.weight)" in refused(folder)


def test_unknown_score_type(tmp_path):
    folder = save_safe_rlhf(tmp_path, score_type="mystery", do_normalize=True)
    assert "score_type 'mystery' is not supported; use one of reward, cost, critic" in refused(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "do_normalize": False}))
    load_score_model(open_score_model(str(folder), None, KEY), "float32")
