"""A dial of two constraints, one of a group's: how it is set where the dual's λ does not meet the margins."""

import json
from pathlib import Path

import numpy as np
import pytest

from cann_jax import train
from cann_jax.core.scores import Scores
from cann_jax.files.errors import InputError
from cann_jax.run.dial import Units, units_of
from tests.builders.runs import calibrated_changes, write_config

NAMES = ("reward", "relevance", "short")


@pytest.fixture(scope="module")
def dialled(tmp_path_factory, tiny_folder, recorder) -> Path:
    """Such a run up to its calibration."""
    folder = tmp_path_factory.mktemp("dial")
    changes = calibrated_changes(folder)
    short = {"kind": "function", "function": "tests.builders.toy_scorers:length", "better": "lower"}
    changes["constraints"]["short"] = {"scorer": short, "margin": -1.0, "group": "even"}
    changes["constraints"]["relevance"]["margin"] = 0.02
    changes["sample"] = {"responses": 4, "max_new_tokens": 8, "feature_layers": []}
    changes["dual"] = {"beta": 0.3}
    changes["align"] |= {"labels": "scores", "dial": True, "epochs": 1}
    changes["export"] = []
    # So small a limit that no scale along the dual's λ meets the margin.
    changes["calibrate"] |= {"tries": 1, "kl_limit": 1e-5}
    with recorder.recording():
        stages = "sample,score,dual,experts,calibrate"
        train.main(["--config", write_config(folder, tiny_folder, **changes), "--stages", stages])
    return folder / "runs/tiny"


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def test_each_score_has_an_adapter(dialled, recorder):
    assert sorted(path.name for path in (dialled / "experts").iterdir() if path.is_dir()) == sorted(NAMES)
    assert all((dialled / f"experts/{name}/metrics.jsonl").exists() for name in NAMES)
    assert not recorder.undeclared()


def test_the_multiplier_of_what_falls_short_is_raised(dialled):
    """Before the first policy is sampled, by what the weights tell; the other coefficients are the dual's."""
    dual, units = read(dialled, "dual/dual.json"), read(dialled, "experts/units.json")
    weights = {"reward": 1.0} | dict(zip(NAMES[1:], dual["chosen"]["multipliers"], strict=True))
    began = np.array([weights[name] * units["units"][name] / units["beta"] for name in NAMES])
    scale = read(dialled, "calibrate/scale.json")
    direction = np.array(scale["tries"][0]["direction"])
    assert began[1] > 0 and direction[1] > 1.4 * began[1]
    np.testing.assert_allclose(direction[[0, 2]], began[[0, 2]], rtol=1e-5)
    # What is kept says by which λ: c = s·λ·u/β.
    for name, multiplier in {"reward": 1.0, **scale["multipliers"]}.items():
        expected = scale["scale"] * multiplier * units["units"][name] / units["beta"]
        assert scale["coefficients"][name] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_coefficients_and_multipliers_are_each_others_inverse():
    units = Units({"reward": 2.0, "relevance": 0.1, "short": 30.0}, beta=0.5)
    found = units.coefficients({"reward": 1.0, "relevance": 5.0, "short": 0.0})
    assert found.tolist() == pytest.approx([4.0, 1.0, 0.0])
    assert units.multipliers(found) == pytest.approx({"relevance": 5.0, "short": 0.0})


def test_a_score_that_never_differs_is_refused():
    random = np.random.default_rng(0)
    reward, other = random.normal(size=(2, 5, 4))
    scores = Scores(reward, np.stack([other, np.repeat(other[:, :1], 4, 1)], -1))
    with pytest.raises(InputError, match=r"by align\.labels the score short never differs") as caught:
        units_of(NAMES, scores, 1.0)
    assert "\n" not in str(caught.value)
