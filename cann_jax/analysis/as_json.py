"""Solutions and analyses as plain values for JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.by_group import Group
from cann_jax.analysis.console import open_line
from cann_jax.analysis.reach import Reach
from cann_jax.core.exploration.conflict import Reachability
from cann_jax.core.exploration.forecast import AttainableIntervals, Forecast
from cann_jax.core.exploration.means import Estimate
from cann_jax.core.exploration.undecided import REACH
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files import hashes


def as_json(found: Analysis, notes: list[str]) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names; infinite ones are the text "inf"."""
    result: dict[str, Any] = {
        **solution_json(found.solution),
        "feasible": found.feasible.name.lower(),
        "constraints": found.problem.names,
        "beta": found.beta,
        "margins": found.problem.margins,
        "predicted_improvement": found.solution.predicted_improvement,
        "largest_margin": found.largest_margin,
        "kl_share_of_log_responses": found.limit.share,
        "warnings": notes,
        "undecided": [
            {
                "text": open_line(found.problem.names, each),
                **dataclasses.asdict(each),
                "asked": np.float32(each.asked),
                "constraint": None if each.constraint == REACH else found.problem.names[each.constraint],
            }
            for each in found.questions
        ],
    }
    if found.reachability:
        result |= conflict_json(found.problem.names, found.reachability)
    if found.intervals:
        result |= {"confidence": found.confidence, "intervals": found.intervals}
    if found.correction:
        reason = found.correction.reason or None
        result["corrected_multipliers"] = None if reason else found.correction.multipliers
        result["correction_declined"] = reason
    if found.conservative:
        solution, raised = found.conservative
        result["conservative"] = {"multipliers": solution.multipliers, "margins": raised}
    if found.cross_fit:
        result["cross_fit"] = found.cross_fit
    if found.sensitivities:
        by_margin, by_beta = found.sensitivities
        result["sensitivities"] = {"multipliers_by_margin": by_margin, "multipliers_by_beta": by_beta}
    if found.reach:
        result["attainable"] = _reach_json(found.reach)
    return dict(_finite(hashes.as_json(result)))


def conflict_json(names: Sequence[str], reach: Reachability) -> dict[str, Any]:
    """Return by how much the margins can be scaled together, and which of them stand in the way."""
    tightest = [name for name, inside in zip(names, reach.conflict, strict=True) if inside]
    return dict(_finite({"margin_scale": reach.scale, "tightest_together": tightest}))


def groups_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the report by group: for each score reference, at λ*, and the change with its interval."""
    return [
        {
            "group": group.name,
            "prompts": group.prompts,
            "scores": {
                score: _finite(
                    hashes.as_json(
                        {"reference": group.before[score], "at_lambda": group.after[score]}
                        | {"change": _estimate(change)}
                    )
                )
                for score, change in group.change.items()
            },
        }
        for group in groups
    ]


def forecast_json(found: Forecast) -> dict[str, Any]:
    """Return a forecast's numbers, each with its interval; improvements are in the constraints' order."""
    result = {
        "improvement": [_estimate(Estimate(*ends)) for ends in zip(*found.improvement, strict=True)],
        "reward": _estimate(found.reward),
        "kl": _estimate(found.kl),
    }
    return dict(_finite(hashes.as_json(result)))


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "interval": [found.low, found.high]}


def _intervals_json(found: AttainableIntervals) -> dict[str, Any]:
    """Return the intervals (low, high) of what is solved for, over resampled prompts."""
    ends = {"multipliers": found.multipliers, "ceiling": found.ceiling}
    return {name: [each.low, each.high] for name, each in ends.items()} | {
        "unreachable_share": found.unreachable_share
    }


def _reach_json(reach: Reach) -> dict[str, Any]:
    """Return what features tell; slopes, correlations and strengths: of the reward, then the constraints."""
    found, predicted = reach.attainable, reach.attainable.predicted
    return {
        "reachable": reach.reachable,
        "multipliers": found.multipliers,
        "ceiling": found.ceiling,
        "correlations": predicted.correlations,
        "slopes": predicted.slopes,
        "strengths": predicted.strengths,
        "intervals": reach.intervals and _intervals_json(reach.intervals),
        "forecast": reach.forecast and forecast_json(reach.forecast),
        "forecast_of_plug_in": reach.plug_in and forecast_json(reach.plug_in),
    }


def solution_json(solution: DualSolution) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names."""
    return dict(_finite(hashes.as_json(solution)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # JSON has no infinity
    return value
