"""Charts of the dual's curve, with what the run was predicted to do and did."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from cann_jax.analysis.curve_plots import draw_multiplier, draw_trade_off, legend_below, points_along
from cann_jax.reporting.charts import Chart, evenly
from cann_jax.reporting.findings import Findings, Json
from cann_jax.reporting.svg import BEFORE, COLOURS, INK, drawn
from cann_jax.run.results import constraint_rows

HEIGHT = 3.3  # inches


def curves(findings: Findings) -> list[Chart]:
    """Return, for each constraint, λ by the margin, and the trade-off with this run's point on it."""
    answer, curve = findings.dual, findings.curve
    if answer is None or curve is None:
        return []
    found = []
    for index in range(len(answer["constraints"])):
        outcome = findings.results, findings.reference_reward
        found += [_multiplier(answer, curve, index), _trade_off(answer, curve, index, *outcome)]
    return found


def _multiplier(answer: Json, curve: pa.Table, index: int) -> Chart:
    label = answer["constraints"][index]

    def draw(axes: Axes) -> None:
        draw_multiplier(axes, curve, answer, index, COLOURS)
        axes.set_title("")
        legend_below(axes, -0.22)

    points = points_along(curve, answer, index)
    title = f"λ of {label} by the margin"
    svg = drawn(draw, f"multiplier-{index}", title, HEIGHT)
    return Chart(title, svg, ("margin", "λ*", "KL, nats"), _sampled(points, "margin", "multiplier", "kl"))


def _trade_off(answer: Json, curve: pa.Table, index: int, results: Json | None, base: float | None) -> Chart:
    """Draw rewards less the reference's, ``base``; as they are and without outcomes where that is unknown."""
    label = answer["constraints"][index]
    known = base is not None

    def draw(axes: Axes) -> None:
        draw_trade_off(axes, curve, answer, index, COLOURS, base or 0.0)
        if known and results is not None:
            _outcomes(axes, results, label)
        axes.set(title="", ylabel="change of reward" if known else "reward")
        legend_below(axes, -0.22)

    points = points_along(curve, answer, index)
    points["predicted_reward"] = points["predicted_reward"] - (base or 0.0)
    title = f"reward by the improvement of {label}"
    svg = drawn(draw, f"trade-off-{index}", title, HEIGHT)
    headings = ("improvement", "change of reward" if known else "reward", "KL, nats")
    return Chart(title, svg, headings, _sampled(points, "predicted_improvement", "predicted_reward", "kl"))


def _outcomes(axes: Axes, results: Json, label: str) -> None:
    """Mark what the trained policy was predicted to do, and what it did, with intervals."""
    row = next(row for name, row in constraint_rows(results) if row.get("label", name) == label)
    reward = results["reward"]
    for key, ends, style, name in (
        ("predicted", "predicted_interval", ("D", BEFORE), "predicted for training"),
        ("measured", "interval", ("s", INK), "this run, measured"),
    ):
        x, y = row.get(key), reward.get(key)
        if x is None or y is None:
            continue
        marker, colour = style
        spread = [np.abs(np.array([each[ends]]).T - at) for each, at in ((row, x), (reward, y))]
        axes.errorbar(x, y, spread[1], spread[0], fmt=marker, color=colour, capsize=2)
        axes.plot(x, y, marker, color=colour, label=name)  # a legend of error bars shows their caps


def _sampled(points: Mapping[str, np.ndarray], *names: str) -> list[list[str]]:
    return [[f"{points[name][row]:.4g}" for name in names] for row in evenly(len(points[names[0]]))]
