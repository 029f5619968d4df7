"""Every shipped configuration of a score model parses."""

from pathlib import Path

import pytest

from cann_jax.cli import parse_score_model

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs/score_models").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_parses(path):
    assert parse_score_model(["--config", str(path)]).name == path.stem
