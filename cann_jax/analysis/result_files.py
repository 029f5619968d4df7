"""The files of an analysis: ``dual.json``, ``curve.parquet`` and ``dual.png``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.analysis.analyse import Analysis, Curve
from cann_jax.analysis.as_json import as_json
from cann_jax.analysis.known import known
from cann_jax.analysis.plots import draw_analysis
from cann_jax.core.feasibility import Feasible
from cann_jax.files.atomic import write_json, write_table


def write_results(
    folder: epath.PathLike, found: Analysis, notes: list[str], more: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Write ``dual.json`` (with ``more`` in it), ``curve.parquet`` and ``dual.png``; return their names."""
    folder, curve = epath.Path(folder), curve_table(found)
    answer = as_json(found, notes) | dict(more or {})
    write_json(folder / "dual.json", answer)
    write_table(folder / "curve.parquet", curve)
    draw_analysis(folder / "dual.png", found, answer, curve)
    return "dual.json", "curve.parquet", "dual.png"


def curve_table(found: Analysis) -> pa.Table:
    """Return one row for each point along the margins and along β; columns are named with the constraints."""
    along = {"margin": found.by_margin, "beta": found.by_beta}
    columns = [_curve_columns(found.problem.names, name, curve) for name, curve in along.items()]
    return pa.concat_tables(map(pa.table, columns))


def _curve_columns(names: tuple[str, ...], along: str, curve: Curve) -> dict[str, Any]:
    points, solutions = len(curve.betas), known(curve.solutions)
    columns = {"along": [along] * points, "beta": np.asarray(curve.betas, np.float32)}
    for j, name in enumerate(names):
        columns[f"margin/{name}"] = np.asarray(curve.margins[:, j])
        columns[f"multiplier/{name}"] = solutions.multipliers[:, j]
        columns[f"predicted_improvement/{name}"] = solutions.predicted_improvement[:, j]
    for name in ("predicted_reward", "kl", "effective_sample_size"):
        columns[name] = getattr(solutions, name)
    columns["feasible"] = [Feasible(int(code)).word for code in solutions.feasible]
    columns["converged"] = solutions.converged
    return columns
