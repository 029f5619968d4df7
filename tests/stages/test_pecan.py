"""PeCAN with prompted pre-alignment: the run's λ* against an independent float64 minimisation."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize_scalar

from cann_jax.train import main
from tests.stages.setting import write_config

BETA, REWARD_BETA, SAFER_BETA, MARGIN = 0.3, 0.2, 0.1, 0.12


@pytest.fixture(scope="module")
def scored(tiny_folder, tmp_path_factory):
    """A run up to its dual, with two pre-aligned models that are system prompts."""
    folder = tmp_path_factory.mktemp("pecan")
    helpful = {"kind": "implicit", "beta": REWARD_BETA, "prealigned": {"system_prompt": "Be helpful."}}
    kind = {"kind": "implicit", "beta": SAFER_BETA, "prealigned": {"system_prompt": "Be kind, always."}}
    changes = {
        "reward": {"scorer": helpful},
        "constraints": {"kind": {"scorer": kind, "margin": MARGIN}},
        "dual": {"beta": BETA},
    }
    main(["--config", write_config(folder, tiny_folder, **changes), "--stages", "sample,score,dual"])
    return folder / "runs/tiny"


def column(folder, name: str) -> np.ndarray:
    return pq.read_table(folder / "score/scores.parquet").column(name).to_numpy().reshape(12, 4).astype(float)


def test_multiplier_equals_an_independent_minimisation(scored):
    """Method: logits (β_r·H + λ·β_g·S)/β, baseline −β_g·KL(π_ref ‖ π_g)."""
    h, s = column(scored, "reward") / REWARD_BETA, column(scored, "kind") / SAFER_BETA
    kl = -s.mean()

    def dual(multiplier: float) -> float:
        logits = (REWARD_BETA * h + multiplier * SAFER_BETA * s) / BETA
        peak = logits.max(-1, keepdims=True)
        log_mean = (np.log(np.exp(logits - peak).mean(-1)) + peak[:, 0]).mean()
        return BETA * log_mean + multiplier * (SAFER_BETA * kl - MARGIN)

    expected = minimize_scalar(dual, bounds=(0, 100), method="bounded", options={"xatol": 1e-9}).x
    found = json.loads((scored / "dual/dual.json").read_text())
    assert expected > 0.1
    assert found["multipliers"][0] == pytest.approx(expected, rel=1e-4)
