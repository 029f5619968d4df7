"""``dual.png``: the multiplier and the trade-off along the margin, and the responses that λ* prefers."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.curve_plots import COLOURS, draw_multiplier, draw_trade_off, legend_below, literal
from cann_jax.core.dual import tilted_weights
from cann_jax.core.feasibility import Feasible
from cann_jax.core.problem import weights_and_baseline
from cann_jax.core.scores import present
from cann_jax.files.atomic import write_bytes_atomic

SHOWN = 4000  # responses in the cloud; more would only overlap


def draw_analysis(path: epath.PathLike, found: Analysis, answer: Mapping[str, Any], curve: pa.Table) -> None:
    """Draw three panels for the first constraint: λ by the margin, the trade-off, and weights under λ*.

    ``answer`` and ``curve`` are what ``dual.json`` and ``curve.parquet`` hold.
    """
    figure = Figure(figsize=(13, 4.9))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.05, 0.3, 0.99, 0.93, wspace=0.2)  # solving a layout takes half a second
    curve_axes, trade_axes, cloud_axes = figure.subplots(1, 3)
    draw_multiplier(curve_axes, curve, answer)
    draw_trade_off(trade_axes, curve, answer)
    _cloud(cloud_axes, found)
    for axes in (curve_axes, trade_axes, cloud_axes):
        legend_below(axes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_bytes_atomic(path, picture.getvalue())


def _cloud(axes: Axes, found: Analysis) -> None:
    """Draw responses by their weight under λ*, both means, and the level that is asked of the mean."""
    scores, name = found.problem.scores, literal(found.problem.names[0])
    multipliers = np.where(np.isfinite(found.solution.multipliers), found.solution.multipliers, 0)
    there = np.flatnonzero(present(scores))
    shown = np.unravel_index(there[:: max(1, len(there) // SHOWN)], scores.reward.shape)
    prompts, place = np.unique(shown[0], return_inverse=True)
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[prompts], dataclasses.replace(scores, baseline=None))
    weights = np.asarray(tilted_weights(multipliers.astype(np.float32), own, found.beta))[place, shown[1]]
    points = np.asarray(own.reward)[place, shown[1]], np.asarray(own.constraints)[place, shown[1], 0]
    size = np.sqrt(weights)
    axes.scatter(*points, 3, color="lightgrey", label="response of the reference")
    style = {"color": COLOURS.point, "linewidths": 0, "alpha": np.clip(0.6 * size, 0.02, 1)}
    axes.scatter(*points, 2 + 30 * size, label="its weight under λ*", **style)
    _means(axes, found)
    axes.set(xlabel="reward", ylabel=name, title="Responses")


def _means(axes: Axes, found: Analysis) -> None:
    """Mark the means of the reference and under λ*, and the level that the margin asks of the latter."""
    weights, baseline = weights_and_baseline(found.problem.scores)
    there = present(found.problem.scores)
    rewards = np.where(there, found.problem.scores.reward, 0).sum(1) / np.maximum(there.sum(1), 1)
    style: dict[str, Any] = {"markersize": 9, "markeredgecolor": "white", "linestyle": "none"}
    asked = float(baseline[0] + found.problem.margins[0])
    axes.axhline(asked, color=COLOURS.ink, linewidth=1, label="asked of the mean")
    before = float(weights @ rewards), float(baseline[0])
    axes.plot(*before, marker="X", color=COLOURS.ink, label="mean of the reference", **style)
    if found.feasible == Feasible.YES:
        after = float(found.solution.predicted_reward), float(found.solution.predicted_constraints[0])
        axes.plot(*after, marker="o", color=COLOURS.line, label="mean under λ*", **style)
