"""A kind of scorer that a user's own installed package registers by an entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT
from tests.builders.runs import write_config

pytestmark = pytest.mark.model

KIND = '''
"""Scores by length: a kind of another package."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt

from cann_jax.scorers import Context, Scored, Scorer, ScorerKind


@dataclass(frozen=True, kw_only=True)
class LengthScorer(ScorerKind):
    """Number of characters, divided by a scale; lower is better.

    Args:
        scale: Characters a unit.
    """

    kind: Literal["length"] = "length"
    scale: Annotated[float, Gt(0)] = 10.0

    def load(self, context: Context) -> "Length":
        return Length(self)

    def identity(self, context: Context) -> dict[str, str]:
        return {context.key: "1"}


@dataclass(frozen=True)
class Length(Scorer):
    config: LengthScorer

    def __call__(self, responses, reference_logps):
        lengths = [[-len(text) for text in row] for row in responses.texts]
        return Scored(np.array(lengths, np.float32) / self.config.scale)
'''


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder on the path that holds a package and its metadata, as pip leaves them."""
    site = tmp_path / "site"
    metadata = site / "lengths-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "lengths.py").write_text(KIND)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[cann_jax.scorers]\nlength = lengths:LengthScorer\n")
    return site


def train(site: Path, config: str, *flags: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "cann_jax.train", "--config", config, *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_kind_of_another_package(installed, tiny_folder, tmp_path):
    """It is parsed, range-checked, listed by --help, dry-run, and named where a kind is misspelt."""
    config = write_config(tmp_path, tiny_folder)
    with_kind = ("--constraints.vowels.scorer", "{kind: length, scale: 4}")
    ended = train(installed, config, *with_kind, "--dry_run")
    assert ended.returncode == 0 and "scorer vowels: length" in ended.stdout, ended.stderr
    ended = train(installed, config, "--constraints.vowels.scorer", "{kind: length, scale: 0}")
    assert ended.returncode == 2
    assert "constraints.vowels.scorer.scale is 0.0; it must be a finite number above 0" in ended.stderr
    ended = train(installed, config, "--constraints.vowels.scorer.kind", "lengt")
    assert ended.returncode == 2 and "did you mean length?" in ended.stderr
    assert "SCORER of 'kind: length'" in train(installed, config, "--help").stdout


def test_its_scores_are_those_of_the_run(installed, tiny_folder, tmp_path):
    import pyarrow.parquet as pq

    config = write_config(tmp_path, tiny_folder)
    flags = ("--constraints.vowels.scorer", "{kind: length, scale: 4}", "--stages", "sample,score")
    ended = train(installed, config, *flags)
    assert ended.returncode == 0, ended.stderr
    scores = pq.read_table(tmp_path / "runs/tiny/score/scores.parquet").column("vowels").to_pylist()
    shards = sorted((tmp_path / "runs/tiny/sample").glob("responses-*.parquet"))
    texts = [text for shard in shards for text in pq.read_table(shard).column("text").to_pylist()]
    assert scores == pytest.approx([-len(text) / 4 for text in texts])


def test_a_fault_of_it_is_one_line(installed, tiny_folder, tmp_path):
    (installed / "lengths.py").write_text(KIND.replace("return Length(self)", "return len(self)"))
    with_kind = ("--constraints.vowels.scorer", "{kind: length, scale: 4}", "--dry_run")
    ended = train(installed, write_config(tmp_path, tiny_folder), *with_kind)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "error: constraints.vowels.scorer: lengths:LengthScorer raised TypeError: " in ended.stderr
    assert "lengths.py, line 25: return len(self))" in ended.stderr
