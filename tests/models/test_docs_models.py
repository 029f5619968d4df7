"""The examples of docs/models.md are what the program reads."""

import re

import yaml

from cann_jax.config.schema import from_mapping
from cann_jax.config.scorers import ScorerConfig
from cann_jax.scorers.judge import JudgeScorer, read_template
from cann_jax.scorers.question import TEMPLATES
from cann_jax.scorers.reward_model import RewardModelScorer
from tests.builders import ROOT

TEXT = (ROOT / "docs/models.md").read_text()


def test_examples_are_read(tmp_path):
    cost, reward, template = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    scorer = yaml.safe_load(cost)["constraints"]["safe"]["scorer"]
    assert isinstance(from_mapping(ScorerConfig, scorer, "constraints.safe.scorer"), RewardModelScorer)
    scorer = yaml.safe_load(reward)["reward"]["scorer"]
    assert isinstance(from_mapping(ScorerConfig, scorer, "reward.scorer"), JudgeScorer)
    (tmp_path / "own.yaml").write_text(template)
    assert read_template(str(tmp_path / "own.yaml"), "reward.scorer.template").better == "Yes"


def test_every_shipped_template_is_named():
    assert all(f"`{path.stem}`" in TEXT for path in TEMPLATES.glob("*.yaml"))
