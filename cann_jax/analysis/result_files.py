"""The files of an analysis: ``dual.json``, ``curve.parquet`` and ``dual.png``."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.analysis.analyse import Analysis, Curve
from cann_jax.analysis.plots import draw_analysis
from cann_jax.core import DualSolution, Feasible
from cann_jax.files.atomic import write_json, write_table


def as_json(found: Analysis, notes: list[str]) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names; infinite ones are the text "inf"."""
    result = {
        **solution_json(found.solution),
        "feasible": found.feasible.name.lower(),
        "constraints": list(found.problem.names),
        "beta": found.beta,
        "margins": found.problem.margins,
        "predicted_improvement": found.solution.predicted_improvement,
        "largest_margin": found.largest_margin,
        "kl_share_of_log_responses": found.limit.share,
        "warnings": notes,
    }
    if found.reachability:
        names = np.array(found.problem.names)[found.reachability.conflict]
        result["margin_scale"] = found.reachability.scale
        result["tightest_together"] = list(names)
    if found.intervals:
        result["confidence"] = found.confidence
        result["intervals"] = dataclasses.asdict(found.intervals)
    if found.correction:
        result["corrected_multipliers"] = (
            found.correction.multipliers if not found.correction.reason else None
        )
        result["correction_declined"] = found.correction.reason or None
    if found.conservative:
        solution, raised = found.conservative
        result["conservative"] = {"multipliers": solution.multipliers, "margins": raised}
    if found.cross_fit:
        result["cross_fit"] = dataclasses.asdict(found.cross_fit)
    if found.sensitivities:
        by_margin, by_beta = found.sensitivities
        result["sensitivities"] = {"multipliers_by_margin": by_margin, "multipliers_by_beta": by_beta}
    return _plain(result)


def solution_json(solution: DualSolution) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names."""
    return _plain({f.name: getattr(solution, f.name) for f in dataclasses.fields(DualSolution)})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "shape"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # JSON has no infinity
    return value


def write_results(folder: epath.Path, found: Analysis, notes: list[str]) -> tuple[str, ...]:
    """Write ``dual.json``, ``curve.parquet`` and ``dual.png`` to the folder and return their names.

    Args:
        folder: Where to write; made if it does not exist.
        found: The analysis.
        notes: Its warnings.
    """
    write_json(folder / "dual.json", as_json(found, notes))
    write_table(folder / "curve.parquet", curve_table(found))
    draw_analysis(folder / "dual.png", found)
    return "dual.json", "curve.parquet", "dual.png"


def curve_table(found: Analysis) -> pa.Table:
    """Return one row for each point along the margins and along β; columns are named with the constraints."""
    along = [("margin", found.by_margin), ("beta", found.by_beta)]
    columns = [_curve_columns(found.problem.names, name, curve) for name, curve in along]
    return pa.concat_tables([pa.table(each) for each in columns])


def _curve_columns(names: tuple[str, ...], along: str, curve: Curve) -> dict[str, Any]:
    points, solutions = len(curve.betas), curve.solutions
    columns = {"along": [along] * points, "beta": np.asarray(curve.betas, np.float32)}
    for j, name in enumerate(names):
        columns[f"margin/{name}"] = np.asarray(curve.margins[:, j])
        columns[f"multiplier/{name}"] = solutions.multipliers[:, j]
        columns[f"predicted_improvement/{name}"] = solutions.predicted_improvement[:, j]
    columns["predicted_reward"] = solutions.predicted_reward
    columns["kl"] = solutions.kl
    columns["effective_sample_size"] = solutions.effective_sample_size
    columns["feasible"] = [Feasible(int(code)).name.lower() for code in solutions.feasible]
    columns["converged"] = solutions.converged
    return columns
