"""Solutions and analyses as plain values for JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.by_group import Group
from cann_jax.analysis.known import known
from cann_jax.analysis.reach import Reach
from cann_jax.core.arrays import Array
from cann_jax.core.exploration.conflict import Reachability
from cann_jax.core.exploration.forecast import Forecast
from cann_jax.core.exploration.means import Estimate
from cann_jax.core.exploration.undecided import REACH
from cann_jax.core.feasibility import Feasible
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files import hashes

Ends = tuple[np.ndarray, np.ndarray]  # low and high


def as_json(found: Analysis, notes: list[str]) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names; infinite ones are the text "inf"."""
    names, spans = found.problem.names, found.intervals
    ends = {}
    if spans:
        ends = {"multiplier": spans.multipliers, "predicted_improvement": spans.predicted_improvement}
    reached = found.feasible != Feasible.NO
    result: dict[str, Any] = {
        **solution_json(found.solution, names, np.asarray(found.problem.margins), found.largest_margin, ends),
        "beta": found.beta,
        "confidence": found.confidence,
        "kl_share_of_log_responses": found.limit.share if reached else None,
        "warnings": notes,
        "undecided": [
            {
                **dataclasses.asdict(each),
                "asked": np.float32(each.asked),
                "constraint": None if each.constraint == REACH else names[each.constraint],
            }
            for each in found.questions
        ],
    }
    if found.reachability:
        result |= conflict_json(names, found.reachability)
    if spans:
        whole = {"predicted_reward": spans.predicted_reward, "infeasible_share": spans.infeasible_share}
        result["intervals"] = whole
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
        result["attainable"] = _reach_json(found.reach, names)
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


def _reach_json(reach: Reach, names: Sequence[str]) -> dict[str, Any]:
    """Return what features tell; slopes, correlations and strengths: of the reward, then the constraints."""
    found, predicted, spans = reach.attainable, reach.attainable.predicted, reach.intervals
    ends = {}
    if spans:
        ends = {"multiplier": spans.multipliers[1:], "ceiling": spans.ceiling[1:]}
    return {
        "reachable": reach.reachable,
        "multipliers": found.multipliers,
        "ceiling": found.ceiling,
        "correlations": predicted.correlations,
        "slopes": predicted.slopes,
        "strengths": predicted.strengths,
        "by_constraint": _by_constraint(
            names, {"multiplier": found.multipliers, "ceiling": found.ceiling}, ends
        ),
        "unreachable_share": spans and spans.unreachable_share,
        "forecast": reach.forecast and forecast_json(reach.forecast),
        "forecast_of_plug_in": reach.plug_in and forecast_json(reach.plug_in),
    }


def solution_json(
    solution: DualSolution,
    names: Sequence[str],
    margins: np.ndarray,
    largest: np.ndarray,
    ends: Mapping[str, Ends] | None = None,
) -> dict[str, Any]:
    """Return plain values under ``DualSolution``'s field names, and the constraints' own by name.

    Args:
        solution: Of one problem.
        names: Of its constraints.
        margins: ``(m,)``.
        largest: ``(m,)``, the largest margin of each.
        ends: Intervals (low, high) of what is a constraint's own, by key; without: no resamples.
    """
    found = known(solution)
    own = {
        "margin": margins,
        "largest_margin": largest,
        "multiplier": found.multipliers,
        "predicted_improvement": found.predicted_improvement,
    }
    result = {
        **dataclasses.asdict(found),
        "feasible": Feasible(int(found.feasible)).word,
        "constraints": names,
        "margins": margins,
        "largest_margin": largest,
        "predicted_improvement": found.predicted_improvement,
        "by_constraint": _by_constraint(names, own, ends or {}),
    }
    return dict(_finite(hashes.as_json(result)))


def _by_constraint(
    names: Sequence[str], own: Mapping[str, Array], ends: Mapping[str, Ends]
) -> dict[str, dict[str, Any]]:
    """Return numbers ``(m,)`` by the constraints' names, each followed by its interval where it has one."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for j, name in enumerate(names):
        for key, values in own.items():
            found[name][key] = values[j]
            if key in ends:
                found[name][f"{key}_interval"] = [end[j] for end in ends[key]]
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)  # JSON has no infinity
    return value
