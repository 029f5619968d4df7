"""What a run has left so far, as its report shows it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.files.atomic import read_json, read_table
from cann_jax.files.hashes import as_json
from cann_jax.judging.judge import read_judged
from cann_jax.run import outputs
from cann_jax.run.execution import altered_since
from cann_jax.run.folder import VERSIONS
from cann_jax.run.manifest import MANIFEST, MISSING, SETTINGS, commit_fingerprint
from cann_jax.run.pipeline import Stage
from cann_jax.run.run import ModelRun, Run, ScoreModelRun
from cann_jax.run.stages import inputs_of
from cann_jax.run.standing import places
from cann_jax.training.health import HEALTH, Health, read_health
from cann_jax.training.metrics import METRICS

Json = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingLog:
    """What a training has logged.

    Args:
        name: Its folder below the run's.
        rows: A row a step.
        health: What was measured on prompts kept from it, and its warnings.
    """

    name: str
    rows: list[dict[str, Any]]
    health: Health | None

    @property
    def tokens(self) -> int | None:
        """The tokens that it has seen, where the log has them."""
        return sum(row["tokens"] for row in self.rows) if all("tokens" in row for row in self.rows) else None

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps at which a value is known, and the values."""
        known = [row for row in self.rows if row.get(name) is not None]
        return np.array([row["step"] for row in known], int), np.array([row[name] for row in known], float)


R = TypeVar("R", bound=ModelRun[Any])


@dataclass(frozen=True)
class EndedStages(Generic[R]):
    """A run, and what its ended stages have written; read at first use, None for what is not there."""

    run: R

    @cached_property
    def commits(self) -> dict[str, Json]:
        """The manifest of each stage that has ended by the run's present settings, in their order."""
        found: dict[str, Json] = {}
        for stage in self.run.stages:
            if self._is_current(stage, found):
                found[stage.name] = read_json(self.run.folder / stage.name / MANIFEST)
        return found

    def _is_current(self, stage: Stage, current: Mapping[str, Json]) -> bool:
        """Return whether a stage has ended, with nothing made anew under it; deleted files do not matter."""
        ended = (self.run.folder / stage.name / MANIFEST).exists()
        if not ended or self._renewed_under(stage, current):
            return False
        return all(line.endswith(MISSING) for line in altered_since(self.run, stage))

    def _renewed_under(self, stage: Stage, current: Mapping[str, Json]) -> bool:
        """Return whether a stage that this one reads is there and has not ended."""
        read = (each.name for each in inputs_of(stage, self.run.pipeline, self.run.config))
        return any(name not in current and (self.run.folder / name).exists() for name in read)

    def _is_underway(self, name: str) -> bool:
        """Return whether what a stage's folder holds is by the run's present settings, ended or not."""
        folder, stage = self.run.folder / name, next(s for s in self.run.stages if s.name == name)
        if name in self.commits:
            return True
        if (folder / MANIFEST).exists() or not (folder / SETTINGS).exists():
            return False
        made = read_json(folder / SETTINGS)
        known = {each: commit_fingerprint(self.run.folder / each) for each in self.commits}
        same = all(known.get(each, value) == value for each, value in made["inputs"].items())
        settings = as_json(self.run.settings_of(stage))
        return same and made["settings"] == settings and not self._renewed_under(stage, self.commits)

    @cached_property
    def trainings(self) -> list[TrainingLog]:
        """Every training's log, in the order of the stages."""
        return list(self._logs())

    def _logs(self) -> Iterator[TrainingLog]:
        for stage in self.run.stages:
            top = self.run.folder / stage.name
            if not self._is_underway(stage.name):
                continue
            for folder in places(top):
                if (folder / METRICS).exists() and (rows := _rows(folder / METRICS)):
                    name = "/".join(folder.parts[len(self.run.folder.parts) :])
                    health = read_health(folder) if (folder / HEALTH).exists() else None
                    yield TrainingLog(name, rows, health)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of what the run was last started with."""
        path = self.run.folder / VERSIONS
        return dict(read_json(path)) if path.exists() else {}


@dataclass(frozen=True)
class Findings(EndedStages[Run]):
    """What an alignment has left: λ, trainings, samples and results.

    Args:
        at_work: What another process does there just now, in words.
    """

    at_work: str | None = None

    @cached_property
    def dual(self) -> dict[str, Any] | None:
        """``dual.json``; also of a dual that ended without an answer, for it shows what can be reached."""
        path = self.run.folder / "dual" / "dual.json"
        return dict(read_json(path)) if path.exists() and self._is_underway("dual") else None

    @cached_property
    def curve(self) -> pa.Table | None:
        """``curve.parquet``."""
        path = self.run.folder / "dual" / "curve.parquet"
        return read_table(path) if path.exists() and self._is_underway("dual") else None

    @cached_property
    def results(self) -> dict[str, Any] | None:
        """``results.json``."""
        return outputs.read_results(self.run) if "evaluate" in self.commits else None

    @cached_property
    def responses(self) -> dict[str, pa.Table]:
        """The held-out responses with scores of the reference and of the aligned model, by policy."""
        if "evaluate" not in self.commits:
            return {}
        return {name: outputs.read_responses_with_scores(self.run, name) for name in outputs.POLICIES}

    @cached_property
    def scores(self) -> list[str]:
        """The scores that both policies' responses have, the reward first."""
        wanted = ("reward", *self.run.config.constraints, *self.run.config.evaluate.also)
        tables = self.responses.values()
        return [name for name in wanted if tables and all(name in table.column_names for table in tables)]

    @cached_property
    def reference_reward(self) -> float | None:
        """The reference's mean reward on the training prompts."""
        if "score" not in self.commits or not (self.run.folder / "score" / "scores.parquet").exists():
            return None
        return float(outputs.read_scores(self.run)[outputs.REWARD].mean())

    @cached_property
    def calibration(self) -> dict[str, Any] | None:
        """What the calibration tried and chose."""
        return outputs.read_calibration(self.run) if "calibrate" in self.commits else None

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """What each round after the first measured."""
        return outputs.read_rounds(self.run) if "rounds" in self.commits else []

    @cached_property
    def judged(self) -> dict[str, Any] | None:
        """What an outside judge said of the evaluated run."""
        return read_judged(self.run) if "evaluate" in self.commits else None


@dataclass(frozen=True)
class ScoreModelFindings(EndedStages[ScoreModelRun]):
    """What the training of a reward or cost model has left."""

    @cached_property
    def results(self) -> dict[str, Any] | None:
        """``results.json``: accuracy and calibration on held-out pairs."""
        path = self.run.folder / "score_model" / "results.json"
        return dict(read_json(path)) if "score_model" in self.commits else None


def _rows(path: epath.Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; a training that was killed may have left half of the last."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
