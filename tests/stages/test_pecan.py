"""PeCAN, prompted and pre-aligned inside the run: λ* against an independent float64 minimisation."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar

from cann_jax.data.encoded_pairs import pairs_from_table
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.attach import attach_adapter, open_attachable
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.train import main
from tests.builders.runs import BETA, REWARD_BETA, SAFER_BETA, implicit, write_config

MARGIN = 0.12


@pytest.fixture(scope="module")
def scored(tiny_folder, tmp_path_factory):
    """A run up to its dual, with two pre-aligned models that are system prompts."""
    folder = tmp_path_factory.mktemp("pecan")
    helpful = implicit(REWARD_BETA, system_prompt="Be helpful.")
    kind = implicit(SAFER_BETA, system_prompt="Be kind, always.")
    changes = {
        "reward": {"scorer": helpful},
        "constraints": {"kind": {"scorer": kind, "margin": MARGIN}},
        "dual": {"beta": BETA},
    }
    main(["--config", write_config(folder, tiny_folder, **changes), "--stages", "sample,score,dual"])
    return folder / "runs/tiny"


def test_whole_pecan(prealigned, capsys):
    """Stages, files, step 0 of every training at its own β; a second start computes nothing."""
    config, folder = prealigned
    for name in ("prealign/better-beta0.2", "prealign/safer-beta0.1", "align"):
        first = json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(np.log(2), abs=1e-6) and first["margin_mean"] == 0
    assert (folder / "evaluate/results.json").exists()
    main(["--config", config, "--align.pairs", "dataset"])
    assert capsys.readouterr().out.count("done already") == 9


def test_prealigned_models_lean(prealigned, tiny_folder):
    """Each prefers what it was trained to prefer, by more than the reference, and β is the scorer's own."""
    _, folder = prealigned
    files = open_model(str(tiny_folder))
    reference = LanguageModel.of(load_decoder(files, "float32"), files)
    responses = pairs_from_table(pq.read_table(folder / "pairs/train.parquet")).responses
    arguments = (responses.prompts.ids, responses.tokens, responses.lengths)
    before = reference.logps(*arguments)
    for name, preferred in (("better-beta0.2", 0), ("safer-beta0.1", 1)):
        adapter = open_attachable(files, folder / "prealign" / name / "adapter")
        gain = attach_adapter(reference, adapter).logps(*arguments) - before
        assert np.mean(gain[:, preferred] - gain[:, 1 - preferred]) > 0.5
    scores = pq.read_table(folder / "pair_scores/scores.parquet").column("safe").to_numpy().reshape(-1, 2)
    np.testing.assert_allclose(scores, SAFER_BETA * gain, atol=1e-4)


def test_a_tampered_adapter_is_refused_and_the_other_model_is_not_trained_again(prealigned, capsys):
    """What pre-alignment left is an input of the scores, by content."""
    config, folder = prealigned
    weights = folder / "prealign/safer-beta0.1/adapter/adapter_model.safetensors"
    original = weights.read_bytes()
    other = folder / "prealign/better-beta0.2/adapter/adapter_model.safetensors"
    weights.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"safetensors was altered .* --stages prealign,score"):
        main(["--config", config, "--align.pairs", "dataset", "--stages", "score"])
    main(["--config", config, "--align.pairs", "dataset", "--stages", "prealign,score"])
    said = capsys.readouterr().out
    assert "prealign/better-beta0.2: done already" in said and "prealign/safer-beta0.1: outputs." in said
    assert weights.read_bytes() == original and "score: done already" in said


def test_scores_before_prealignment(prealigned, tmp_path):
    config, _ = prealigned
    with pytest.raises(
        InputError,
        match=r"'pairs', which has not ended .*--stages pairs,prealign,sample,score",
    ):
        run = ["--config", config, "--run_dir", str(tmp_path), "--stages", "sample,score"]
        main(run)


def test_prealignment_needs_preferences(prealigned):
    config, _ = prealigned
    with pytest.raises(InputError, match=r"scorer\.prealigned\.preference is 'better'; add the section"):
        main(["--config", config, "--preferences", "null"])


def column(folder, name: str) -> np.ndarray:
    return pq.read_table(folder / "score/scores.parquet").column(name).to_numpy().reshape(12, 4).astype(float)


def test_multiplier_equals_an_independent_minimisation(scored):
    found = json.loads((scored / "dual/dual.json").read_text())
    expected = independent_multiplier(scored, "kind", MARGIN)
    assert expected > 0.1
    assert found["multipliers"][0] == pytest.approx(expected, rel=1e-4)


def test_multiplier_of_prealigned_models(prealigned):
    _, folder = prealigned
    found = json.loads((folder / "dual/dual.json").read_text())
    expected = independent_multiplier(folder, "safe", 0.02)
    assert expected > 0.01
    assert found["multipliers"][0] == pytest.approx(expected, rel=1e-3)


def independent_multiplier(folder, name: str, margin: float) -> float:
    """Method: logits (β_r·H + λ·β_g·S)/β, baseline −β_g·KL(π_ref ‖ π_g), in float64."""
    h, s = column(folder, "reward") / REWARD_BETA, column(folder, name) / SAFER_BETA
    kl = -s.mean()

    def dual(multiplier: float) -> float:
        logits = (REWARD_BETA * h + multiplier * SAFER_BETA * s) / BETA
        peak = logits.max(-1, keepdims=True)
        log_mean = (np.log(np.exp(logits - peak).mean(-1)) + peak[:, 0]).mean()
        return BETA * log_mean + multiplier * (SAFER_BETA * kl - margin)

    return minimize_scalar(dual, bounds=(0, 100), method="bounded", options={"xatol": 1e-9}).x
