"""λ* from the scores, with everything that is known of it before any training."""

import dataclasses
from typing import Any

import numpy as np

from cann_jax.analysis.analyse import Analysis, analyse
from cann_jax.analysis.as_json import forecast_json
from cann_jax.analysis.console import infeasible_message, print_analysis, unconverged_message, warnings
from cann_jax.analysis.reach import Features, shortfall_message
from cann_jax.analysis.result_files import write_results
from cann_jax.config.run import DualConfig
from cann_jax.core.exploration.forecast import Forecast, forecast
from cann_jax.core.feasibility import Feasible
from cann_jax.core.features import FeatureTable
from cann_jax.files.errors import InfeasibleError, NotConvergedError
from cann_jax.run.outputs import REWARD, read_features, read_problem, write_predicted
from cann_jax.run.run import Run
from cann_jax.runtime.distributed import is_first
from cann_jax.runtime.mesh import alone


def run(run: Run) -> None:
    """Write ``dual.json``, ``curve.parquet``, ``dual.png`` and ``predicted.parquet``, and print the tables.

    The last has no rows where there is no forecast, for want of prompts.

    Raises:
        InfeasibleError: The margins cannot be reached on the sample or, where the attainable multipliers are
            asked for, by what the model can tell; raised when the files that show what can be reached are
            written.
        NotConvergedError: λ*, where training uses it, was not found to tolerance.
        InputError: There are fewer prompts than ``dual.folds``, and the attainable multipliers are asked for.
    """
    if is_first():
        with alone():
            _solve(run)


def _solve(run: Run) -> None:
    config, problem, values = run.config, read_problem(run), read_features(run)
    found = analyse(
        problem,
        config.dual.beta,
        config.evaluate.confidence,
        seed=config.seed,
        method=config.dual.method,
        features=None if values is None else _features(run, values),
    )
    said = warnings(found)
    print_analysis(found, said)
    chosen = _chosen(config.dual, list(config.constraints), found)
    more = {"chosen": chosen, "shares": problem.targets.shares}
    write_results(run.folder / "dual", found, said, more)
    if values is not None:
        write_predicted(run, *_predicted(found))
    if config.dual.given is None:
        _refuse_unreached(run, found)


def _chosen(config: DualConfig, names: list[str], found: Analysis) -> dict[str, Any]:
    """Return the λ that the run aligns with, where it comes from, and what it will give."""
    by, weight, multipliers = "plug_in", 1.0, found.solution.multipliers
    expected = found.reach and found.reach.plug_in
    if config.given is not None:
        by, weight = "given", config.given[REWARD]
        multipliers = np.array([config.given[name] for name in names], np.float32)
        expected = _forecast_of_sum(found, multipliers, weight)
        print(f"dual: λ is given (dual.multipliers), not that above: {config.given}")
    elif config.multipliers == "attainable" and found.reach is not None:
        by, multipliers = "attainable", found.reach.attainable.multipliers
        expected = found.reach.forecast
    return {
        "by": by,
        "multipliers": [value if np.isfinite(value) else None for value in multipliers],
        "reward_weight": weight,
        "forecast": expected and forecast_json(expected),
    }


def _refuse_unreached(run: Run, found: Analysis) -> None:
    """Raise what says that no λ meets the margins, or none was found."""
    config, problem = run.config, found.problem
    if found.feasible == Feasible.NO or not np.all(np.isfinite(found.solution.multipliers)):
        raise InfeasibleError(infeasible_message(found))
    if config.dual.multipliers == "plug_in" or found.reach is None:
        if unsolved := unconverged_message(found.feasible, found.solution):
            raise NotConvergedError(unsolved)
    elif not found.reach.reachable:
        margins, baseline = np.asarray(problem.margins), found.solution.baseline
        message = shortfall_message(problem.constraints, margins, baseline, found.reach.attainable)
        raise InfeasibleError(f"{message}; dual.multipliers plug_in trains all the same")


def _forecast_of_sum(found: Analysis, multipliers: np.ndarray, weight: float) -> Forecast | None:
    """Return what training on ``weight``·r + ⟨λ, g⟩ can be expected to reach."""
    if found.reach is None:
        return None
    predicted = found.reach.attainable.predicted
    summed = dataclasses.replace(predicted, reward=weight * np.asarray(predicted.reward))
    scores, targets = found.problem.scores, found.problem.targets
    return forecast(scores, summed, targets, multipliers, found.beta, found.confidence)


def _features(run: Run, values: FeatureTable) -> Features | None:
    """Return how the features are used; None where nothing needs a forecast and the prompts are too few."""
    settings, prompts = run.config.dual, values.shape[0]
    if settings.multipliers != "attainable" and prompts < settings.folds:
        counts = f"{prompts} prompts, and dual.folds is {settings.folds}"
        print(f"dual: no forecast: {counts}; lower it to {prompts} or less, or take more prompts")
        return None
    return Features(values, settings.folds, run.config.seed)


def _predicted(found: Analysis) -> tuple[np.ndarray, np.ndarray]:
    """Return reward and constraints as predicted; those of no prompt where there is no forecast."""
    if found.reach is None:
        return np.asarray(found.problem.scores.reward)[:0], np.asarray(found.problem.scores.constraints)[:0]
    predicted = found.reach.attainable.predicted
    return np.asarray(predicted.reward), np.asarray(predicted.constraints)
