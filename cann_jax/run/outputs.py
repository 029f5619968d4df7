"""Typed readers and writers of every artifact: the one place that knows the files' names and columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from cann_jax.config.run import RunConfig
from cann_jax.core.features import FeatureTable
from cann_jax.core.prepare import constraint_values, meets, prepare
from cann_jax.core.problem import Constraint, Problem
from cann_jax.core.scores import Scores
from cann_jax.data.builders.files import Part
from cann_jax.data.encoded_pairs import EncodedPairs, pairs_from_table
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_json, read_table, write_json, write_table
from cann_jax.run.run import ModelRun, Run
from cann_jax.sampling.shards import read_features as read_feature_shards
from cann_jax.sampling.shards import read_shards
from cann_jax.training.checkpoints import load_weights, save_weights

REWARD = "reward"  # the reward's column, beside one a constraint
RESPONSES = "responses"  # prefix of the sample stage's shards
PREDICTED = "predicted.parquet"  # scores predicted from features, by the stage dual
WEIGHTS, MODEL = "weights", "model"
POLICIES = REFERENCE, ALIGNED = "reference", "aligned"  # of the evaluation

Columns = Mapping[str, np.ndarray]  # scores (N, K) by name


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, at the configuration's ``evaluate.confidence``."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Forecast:
    """What a policy that tilts by what the model can tell does on prompts that were left out.

    Args:
        improvement: Of each constraint over the reference, by name.
        reward: Of the mean reward over the reference.
        kl: Its KL to the reference, nats.
    """

    improvement: dict[str, Estimate]
    reward: Estimate
    kl: Estimate


@dataclass(frozen=True)
class DualAnswer:
    """What later stages and the report read of ``dual.json``; mappings are by constraint.

    Args:
        labels: Names as the dual prints them, with group.
        multipliers: λ that the run aligns with.
        reward_weight: Weight of r in r_λ, 1 but in weighted sums.
        margins: Improvement that was asked for, b.
        spread: Standard deviation of the score within a prompt.
        shares: Share of the training prompts that its group has.
        forecast: What λ will give; None where the run has no features.
        beta: β.
        feasible: Whether the sample reaches the margins: ``yes``, ``no`` or ``undetermined``.
        kkt_residual: Of the plug-in dual, in units of the scores' spread.
        warnings: Sentences for people.
    """

    labels: dict[str, str]
    multipliers: dict[str, float]
    reward_weight: float
    margins: dict[str, float]
    spread: dict[str, float]
    shares: dict[str, float]
    forecast: Forecast | None
    beta: float
    feasible: str
    kkt_residual: float
    warnings: list[str]

    def ordered(self, config: RunConfig) -> np.ndarray:
        """Return λ (m,) in the order of the configuration's constraints, which may not be the file's."""
        return np.array([self.multipliers[name] for name in config.constraints], np.float32)


def read_pairs(run: ModelRun[Any], part: Part) -> EncodedPairs:
    """Read one part of the preference pairs."""
    return pairs_from_table(read_table(run.folder / "pairs" / f"{part}.parquet"))


def read_samples(run: Run) -> Responses:
    """Read the reference's responses to the training prompts."""
    return read_shards(run.folder / "sample", RESPONSES, run.config.sample.max_new_tokens)


def read_features(run: Run) -> FeatureTable | None:
    """Return the features (N, K, layers · hidden) of those responses, float16; None where there are none."""
    return read_feature_shards(run.folder / "sample")


def read_scores(run: Run) -> Columns:
    """Read the scores (N, K) of the reference's responses."""
    return _columns(read_table(run.folder / "score" / "scores.parquet"), (REWARD, *run.config.constraints))


def read_problem(run: Run) -> Problem:
    """Read those scores as the dual's problem; the scores in it are those that r_λ is made of."""
    return _read_problem(run, constraints_of(run.config))


def _read_problem(run: Run, constraints: Sequence[Constraint]) -> Problem:
    table = read_table(run.folder / "score" / "scores.parquet")
    columns = _columns(table, (REWARD, *run.config.constraints))
    count = columns[REWARD].shape[1]
    return _problem(constraints, columns, table.column("group").to_pylist()[::count])


def read_safe(run: Run) -> np.ndarray:
    """Read which of the reference's responses (N, K) meet every constraint by themselves: 1, or 0."""
    scores, constraints = read_scores(run), constraints_of(run.config)
    groups = read_samples(run).groups()
    safe = [meets(each, scores[each.name], groups) for each in constraints]
    return np.asarray(np.all(safe, axis=0), np.int8)


def read_dual(run: Run) -> DualAnswer:
    """Read the dual's answer."""
    found = read_json(run.folder / "dual" / "dual.json")
    names = [label.partition("@")[0] for label in found["constraints"]]
    chosen = found["chosen"]
    by_name: dict[str, Any] = {
        key: dict(zip(names, values, strict=True))
        for key, values in {
            "labels": found["constraints"],
            "multipliers": chosen["multipliers"],
            "margins": found["margins"],
            "spread": found["spread"],
            "shares": found["shares"],
        }.items()
    }
    plain = ("beta", "feasible", "kkt_residual", "warnings")
    forecast = None if chosen["forecast"] is None else _forecast(chosen["forecast"], names)
    weight = chosen["reward_weight"]
    return DualAnswer(
        **by_name, reward_weight=weight, forecast=forecast, **{key: found[key] for key in plain}
    )


def _forecast(found: Mapping[str, Any], names: Sequence[str]) -> Forecast:
    improvement = [Estimate(**values) for values in found["improvement"]]
    return Forecast(
        dict(zip(names, improvement, strict=True)), Estimate(**found["reward"]), Estimate(**found["kl"])
    )


def read_predicted(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Read the predicted scores of the reference's responses: reward (N, K) and constraints (N, K, m).

    The constraints are in the configuration's order, and scaled as those of ``read_problem``.
    """
    names = tuple(run.config.constraints)
    columns = _columns(read_table(run.folder / "dual" / PREDICTED), (REWARD, *names))
    return columns[REWARD], np.stack([columns[name] for name in names], axis=-1)


def write_predicted(run: Run, reward: np.ndarray, constraints: np.ndarray) -> None:
    """Write the predicted scores, (n, K) and (n, K, m), of responses to the first n training prompts."""
    rows = read_table(run.folder / "score" / "scores.parquet").select(["prompt_id", "response"])
    rows = rows.slice(0, reward.size)
    columns = {REWARD: reward} | {
        name: constraints[..., index] for index, name in enumerate(run.config.constraints)
    }
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(np.asarray(values, np.float32).reshape(-1)))
    write_table(run.folder / "dual" / PREDICTED, rows)


def read_labelling_scores(run: Run) -> Scores:
    """Read the scores that r_λ is made of: as measured, or as predicted from the reference's features."""
    if run.config.align.labels == "scores":
        return _read_problem(run, _without_targets(run.config)).scores
    print("labels from predicted scores, each fitted on other prompts (align.labels: denoised)")
    return Scores(*read_predicted(run))


def read_pair_rewards(run: Run) -> tuple[np.ndarray, Columns]:
    """Read r_λ (n, 2) of the training pairs, and the scores that it is made of, by name."""
    constraints = constraints_of(run.config)
    names = (REWARD, *(constraint.name for constraint in constraints))
    columns = _columns(read_table(run.folder / "pair_scores" / "scores.parquet"), names)
    dual = read_dual(run)
    reward: np.ndarray = np.float32(dual.reward_weight) * columns[REWARD].astype(np.float32)
    for constraint in constraints:
        values = constraint_values(constraint, columns[constraint.name])
        reward = reward + np.float32(dual.multipliers[constraint.name]) * values
    return reward, columns


def read_weights(run: ModelRun[Any], stage: str, like: Any) -> Any:
    """Read the weights that a stage trained, with the structure of ``like``, onto the mesh in use."""
    return load_weights(run.folder / stage / WEIGHTS, like)


def write_weights(run: ModelRun[Any], stage: str, weights: Any) -> None:
    """Write the weights that a stage trained."""
    save_weights(run.folder / stage / WEIGHTS, weights)


def expert_folder(name: str) -> str:
    """Return the folder, below the run's, of the policy that was trained on one score."""
    return f"experts/{quote(name, safe='')}"


def read_multipliers(run: Run) -> np.ndarray:
    """Read λ (m,) of the last round or the dial, in the configuration's order; else the dual's."""
    rounds = read_rounds(run)
    if run.config.trains and run.config.align.dial:
        found = read_calibration(run)["multipliers"]
    elif rounds:
        found = rounds[-1]["multipliers"]
    else:
        return read_dual(run).ordered(run.config)
    return np.array([found[name] for name in run.config.constraints], np.float32)


def read_scale(run: Run) -> float:
    """Read the scale of the trained step; 1 where nothing was calibrated."""
    return float(read_calibration(run)["scale"]) if run.config.calibrated else 1.0


def read_final_scale(run: Run) -> float:
    """Read the scale of the policy that the run ends in, 1 after rounds, which begin at a scaled step."""
    return read_scale(run) if run.config.trains and not read_rounds(run) else 1.0


def read_calibration(run: Run) -> dict[str, Any]:
    """Read what the calibration tried and chose."""
    return dict(read_json(run.folder / "calibrate" / "scale.json"))


def meets_aim(calibration: Mapping[str, Any]) -> bool:
    """Return whether the scale meets its aim, confirmed by a sample there; then no round is run."""
    return bool(calibration["met"] and calibration["confirmed"])


def read_coefficients(run: Run) -> list[float]:
    """Read the coefficients that the dial is set to, in the order of ``RunConfig.experts``."""
    found = read_calibration(run)["coefficients"]
    return [found[name] for name in run.config.experts()]


def write_scale(run: Run, record: Mapping[str, Any]) -> None:
    """Write what the calibration tried and chose."""
    write_json(run.folder / "calibrate" / "scale.json", record)


def read_rounds(run: Run) -> list[dict[str, Any]]:
    """Read what each round after the first measured, how λ moved, and its warnings; none in one shot."""
    if not run.config.trains or run.config.rounds == 1:
        return []
    return list(read_json(run.folder / "rounds" / "rounds.json"))


def write_rounds(run: Run, records: Sequence[Mapping[str, Any]]) -> None:
    """Write what each round measured, and how λ moved."""
    write_json(run.folder / "rounds" / "rounds.json", records)


def write_scores(run: Run, stage: str, table: pa.Table) -> None:
    """Write the scores of the stage ``score`` or ``pair_scores``."""
    write_table(run.folder / stage / "scores.parquet", table)


def write_evaluation(run: Run, tables: Mapping[str, pa.Table], results: Mapping[str, Any]) -> None:
    """Write both policies' responses with scores, and the results."""
    for name, table in tables.items():
        write_table(run.folder / "evaluate" / f"{name}.parquet", table)
    write_json(run.folder / "evaluate" / "results.json", results)


def read_results(run: Run) -> dict[str, Any]:
    """Read the results: by constraint and for the reward; the rest under ``summary`` and ``also``."""
    return dict(read_json(run.folder / "evaluate" / "results.json"))


def read_responses_with_scores(run: Run, policy: str) -> pa.Table:
    """Read the held-out responses of ``REFERENCE`` or ``ALIGNED``, one row each."""
    return read_table(run.folder / "evaluate" / f"{policy}.parquet")


def problem_of(config: RunConfig, columns: Columns, prompt_groups: Sequence[str | None]) -> Problem:
    """Return the constraints on scores ``(n, K)`` by name; ``prompt_groups`` holds each prompt's group.

    They are those of new samples, of which none is solved for λ, so that they need not vary.
    """
    return _problem(constraints_of(config), columns, prompt_groups, varied=False)


def scores_to_tilt(run: Run, columns: Columns, prompt_groups: Sequence[str | None]) -> Scores:
    """Return the scores of other prompts as λ takes them; arguments as in ``problem_of``.

    A group's g is divided by its share of the training prompts, for which λ was found, whatever its share of
    these is; it may have none of them.
    """
    constraints, known = constraints_of(run.config), read_dual(run).shares
    shares = np.array([known[each.name] for each in constraints])
    return _problem(constraints, columns, prompt_groups, shares, varied=False).scores


def _problem(
    constraints: Sequence[Constraint],
    columns: Columns,
    prompt_groups: Sequence[str | None],
    shares: np.ndarray | None = None,
    varied: bool = True,
) -> Problem:
    """Return the problem that ``prepare`` makes of them; with ``shares``, a group may have no prompt here."""
    groups = np.array(prompt_groups, object)
    names = {*prompt_groups} if shares is None else {*prompt_groups, *(each.group for each in constraints)}
    members = {str(name): groups == name for name in names if name is not None}
    return prepare(columns[REWARD], columns, constraints, groups=members, shares=shares, varied=varied)


def _without_targets(config: RunConfig) -> list[Constraint]:
    """Return the constraints as far as g is made by them; labels depend on nothing else."""
    found = []
    for name, item in config.constraints.items():
        keys = ("max_unsafe", "unsafe_below", "group", "clip")
        own: dict[str, Any] = {key: getattr(item, key) for key in keys}
        found.append(Constraint(name=name, margin=0.0 if own["max_unsafe"] is None else None, **own))
    return found


def constraints_of(config: RunConfig) -> list[Constraint]:
    """Return the configuration's constraints as the core states them, in their order."""
    return [
        Constraint(name, **{key: value for key, value in vars(item).items() if key != "scorer"})
        for name, item in config.constraints.items()
    ]


def _columns(table: pa.Table, names: Sequence[str]) -> dict[str, np.ndarray]:
    count = int(max(table.column("response").to_numpy())) + 1
    return {name: table.column(name).to_numpy().reshape(-1, count) for name in names}
