"""Solutions and analyses as plain values for JSON."""

import dataclasses
from typing import Any

import numpy as np

from cann_jax.analysis.analyse import Analysis
from cann_jax.core.solver.solution import DualSolution


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
    return dict(_plain(result))


def solution_json(solution: DualSolution) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names."""
    return dict(_plain({f.name: getattr(solution, f.name) for f in dataclasses.fields(DualSolution)}))


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
