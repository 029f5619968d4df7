"""The analysis as a table to read, ``dual.json`` and ``curve.parquet``."""

import dataclasses

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.analysis.analyse import Analysis, Curve
from cann_jax.core import DualSolution, Feasible
from cann_jax.files import atomic as artifacts


def as_json(found: Analysis, said: list[str]) -> dict:
    """Plain values under ``DualSolution``'s field names; infinite ones are the text "inf"."""
    result = {
        **solution_json(found.solution),
        "feasible": found.feasible.name.lower(),
        "constraints": list(found.problem.names),
        "beta": found.beta,
        "margins": found.problem.margins,
        "predicted_improvement": found.solution.predicted_improvement,
        "largest_margin": found.largest_margin,
        "kl_share_of_log_responses": found.limit.share,
        "warnings": said,
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


def solution_json(solution: DualSolution) -> dict:
    """Plain values under ``DualSolution``'s field names."""
    return _plain({f.name: getattr(solution, f.name) for f in dataclasses.fields(DualSolution)})


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "shape"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # JSON has no infinity
    return value


def write_json(path: epath.PathLike, found: Analysis, said: list[str]) -> None:
    """``dual.json``."""
    artifacts.write_json(path, as_json(found, said))


def write_curve(path: epath.PathLike, found: Analysis) -> None:
    """``curve.parquet``: a row for each point, columns named with the constraints."""
    along = [("margin", found.by_margin), ("beta", found.by_beta)]
    columns = [_curve_columns(found.problem.names, name, curve) for name, curve in along]
    artifacts.write_table(path, pa.concat_tables([pa.table(c) for c in columns]))


def _curve_columns(names: tuple[str, ...], along: str, curve: Curve) -> dict:
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


def print_table(found: Analysis, said: list[str], stream=None) -> None:
    """What a person reads at a glance."""
    from rich.table import Table

    from cann_jax.files.console import console as standard_output

    console = standard_output(stream)
    table = Table(title=f"beta = {found.beta:g}", title_justify="left")
    for heading in ("constraint", "margin", "largest", "lambda*", "improvement"):
        table.add_column(heading, justify="left" if heading == "constraint" else "right", overflow="fold")
    for j, name in enumerate(found.problem.names):
        table.add_row(name, *_row(found, j))
    console.print(table)
    for line in _lines(found):
        console.print(line)
    for sentence in said:
        console.print(f"[yellow]![/yellow] {sentence}")


def _row(found: Analysis, j: int) -> list[str]:
    solution, spans = found.solution, found.intervals
    reached = found.feasible == Feasible.YES
    improvement = f"{solution.predicted_improvement[j]:.4g}" if reached else "out of reach"
    return [
        f"{float(found.problem.margins[j]):.4g}",
        f"{found.largest_margin[j]:.4g}",
        f"{solution.multipliers[j]:.5g}" + (_span(spans.multipliers, j) if spans else ""),
        improvement + (_span(spans.predicted_improvement, j) if spans else ""),
    ]


def _span(span: tuple[np.ndarray, np.ndarray], j: int) -> str:
    low, high = np.atleast_1d(span[0])[j], np.atleast_1d(span[1])[j]
    return rf" \[{low:.4g}, {high:.4g}]"  # rich reads a bare bracket as markup


def _lines(found: Analysis) -> list[str]:
    solution = found.solution
    lines = [
        f"feasible: {found.feasible.name.lower()}   converged: {str(bool(solution.converged)).lower()}   "
        f"KKT residual {solution.kkt_residual:.0e} of the spread"
    ]
    if found.feasible == Feasible.YES:
        lines.append(
            f"predicted reward {solution.predicted_reward:.4g}   KL {solution.kl:.3g} nats, "
            f"{float(found.limit.share):.0%} of ln K   "
            f"effective responses {solution.effective_sample_size:.3g}"
        )
    if found.correction:
        declined = found.correction.reason
        corrected = ", ".join(f"{x:.4g}" for x in found.correction.multipliers)
        lines.append(
            f"finite K: {'not corrected: ' + declined if declined else 'corrected lambda* ' + corrected}"
        )
    if found.conservative:
        careful = ", ".join(f"{x:.4g}" for x in found.conservative[0].multipliers)
        lines.append(f"conservative lambda ({found.confidence:.0%} that the margins hold): {careful}")
    if found.cross_fit:
        seen = np.asarray(found.cross_fit.improvement).mean(0)
        lines.append(f"cross-fitted improvement: {', '.join(f'{x:.4g}' for x in seen)}")
    if found.reachability and np.isfinite(found.reachability.scale):
        lines.append(f"all margins can be scaled by at most {found.reachability.scale:.3g} together")
    return lines
