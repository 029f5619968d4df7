"""Pictures of a run."""

import io
import json
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.analysis.plots import literal
from cann_jax.files.atomic import write_bytes_atomic

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEFORE, AFTER = "#7f7f7f", "#1f77b4"


def draw_clouds(path: epath.PathLike, before: pa.Table, after: pa.Table, constraints: list[str]) -> None:
    """Draw the reward against each constraint, one point a held-out response, with the means."""
    shown = [name for name in constraints if name in before.column_names]
    if "reward" not in before.column_names or not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(5.2 * len(shown), 4.2), squeeze=False)
    for axis, name in zip(axes[0], shown, strict=True):
        for label, table, colour in (("reference", before, BEFORE), ("aligned", after, AFTER)):
            x, y = (table.column(column).to_numpy() for column in (name, "reward"))
            axis.scatter(x, y, s=7, alpha=0.3, color=colour, linewidths=0)
            axis.scatter(
                x.mean(), y.mean(), s=130, marker="X", color=colour, edgecolor="black", label=f"{label}, mean"
            )
        axis.set(xlabel=literal(name), ylabel="reward")
        axis.legend()
    _save(figure, path)


def draw_training(
    path: epath.PathLike, metrics: Mapping[str, epath.PathLike], start: tuple[str, float] | None = None
) -> None:
    """Draw the loss, and the implicit reward margins of the pairs, by step, of each training by name.

    ``start`` is the loss of the reference, as a formula and in numbers.
    """
    figure, axes = plt.subplots(len(metrics), 2, figsize=(10.4, 3.6 * len(metrics)), squeeze=False)
    for (name, file), (left, right) in zip(metrics.items(), axes, strict=True):
        rows = [json.loads(line) for line in epath.Path(file).read_text().splitlines()]
        _draw_steps(left, right, rows, start)
        if len(metrics) > 1:
            left.set_title(literal(name))
    _save(figure, path)


def _draw_steps(left: Axes, right: Axes, rows: list[Any], start: tuple[str, float] | None) -> None:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    left.plot(columns["step"], columns["loss"], color=AFTER)
    if start is not None:
        left.axhline(start[1], color=BEFORE, linestyle=":", label=f"{start[0]}, the reference")
        left.legend()
    left.set(xlabel="step", ylabel="loss")
    right.fill_between(columns["step"], columns["margin_p10"], columns["margin_p90"], color=AFTER, alpha=0.2)
    right.plot(columns["step"], columns["margin_mean"], color=AFTER)
    right.axhline(0, color=BEFORE, linestyle=":")
    right.set(xlabel="step", ylabel="β · log-ratio margin, 10 to 90 %")


def _save(figure: Figure, path: epath.PathLike) -> None:
    picture = io.BytesIO()
    figure.tight_layout()
    figure.savefig(picture, format="png", dpi=120)
    plt.close(figure)
    write_bytes_atomic(path, picture.getvalue())
