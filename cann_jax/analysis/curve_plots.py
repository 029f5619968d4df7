"""The curve of an analysis as pictures, drawn from ``curve.parquet`` and ``dual.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy


@dataclass(frozen=True)
class Colours:
    """Colours of pictures; by default Okabe and Ito's, which colour-blind readers can tell apart.

    Each mark has a shape or a line style of its own too.
    """

    ink: str = "black"
    muted: str = "#777777"
    line: str = "#0072B2"
    point: str = "#D55E00"
    reach: str = "#00795a"


COLOURS = Colours()


def literal(name: str) -> str:
    """Return a name as a label that Matplotlib writes as it is, and does not read as a formula."""
    return name.replace("$", r"\$")


def points_along(curve: pa.Table, label: str, along: str = "margin") -> dict[str, np.ndarray]:
    """Return the feasible points of the curve as columns: one constraint's numbers, the reward and the KL."""
    kept = curve.filter(pc.and_(pc.equal(curve["along"], along), pc.equal(curve["feasible"], "yes")))
    of_constraint = ("margin", "multiplier", "predicted_improvement")
    names = {name: f"{name}/{label}" for name in of_constraint} | {
        name: name for name in ("predicted_reward", "kl")
    }
    return {name: kept[column].to_numpy() for name, column in names.items()}


def interval_of(answer: Mapping[str, Any], name: str, index: int) -> tuple[float, float] | None:
    """Return one constraint's interval among ``intervals`` of ``dual.json``; None where there are none."""
    found = (answer.get("intervals") or {}).get(name)
    return None if found is None else (float(found[0][index]), float(found[1][index]))


def draw_multiplier(
    axes: Axes, curve: pa.Table, answer: Mapping[str, Any], index: int = 0, colours: Colours = COLOURS
) -> None:
    """Draw λ by the margin, with the margin asked for, λ, and what bounds the margin."""
    label, margin = answer["constraints"][index], float(answer["margins"][index])
    points, reach = points_along(curve, label), answer.get("attainable")
    axes.plot(points["margin"], points["multiplier"], color=colours.line, label="λ* by the margin")
    axes.axvline(margin, color=colours.ink, linewidth=1, label=f"margin = {margin:.4g}")
    heights = [1e-3, float(np.quantile(points["multiplier"], 0.9)) if len(points["multiplier"]) else 0.0]
    heights += _mark_lambda(axes, margin, answer, index, ("o", colours.point, "λ*", 2.5, -5))
    if reach is not None:
        ceiling = float(reach["ceiling"][index])
        axes.axvline(ceiling, color=colours.reach, linestyle="--", label="ceiling of training")
        style = ("s", colours.reach, "attainable λ", 1.2, 5)
        heights += _mark_lambda(axes, margin, reach, index, style) if reach["reachable"] else []
    largest = float(answer["largest_margin"][index])
    axes.axvline(largest, color=colours.muted, linestyle=":", label="largest on the sample")
    axes.set_ylim(0, max(heights))
    axes.set(xlabel=f"margin of {literal(label)}", ylabel="λ", title="Multiplier")


def _mark_lambda(
    axes: Axes, margin: float, found: Mapping[str, Any], index: int, style: tuple[str, str, str, float, int]
) -> list[float]:
    """Draw a λ at the margin, its interval beside it; return the heights that the picture should have."""
    marker, colour, name, room, shift = style
    value, interval = float(found["multipliers"][index]), interval_of(found, "multipliers", index)
    if not np.isfinite(value):
        return []
    heights = [room * value]
    if interval is not None:
        low, high = interval
        top = high if np.isfinite(high) else room * value
        aside = offset_copy(axes.transData, axes.get_figure(root=True), x=shift, units="points")
        axes.plot([margin] * 2, [low, top], color=colour, linewidth=3, alpha=0.5, transform=aside)
        heights.append(1.15 * top)
    axes.plot([margin], [value], marker, color=colour, markersize=7, label=f"{name} = {value:.4g}")
    return heights


def draw_trade_off(
    axes: Axes,
    curve: pa.Table,
    answer: Mapping[str, Any],
    index: int = 0,
    colours: Colours = COLOURS,
    base: float = 0.0,
) -> None:
    """Draw the predicted reward, less ``base``, by the predicted improvement of a constraint."""
    label, margin = answer["constraints"][index], float(answer["margins"][index])
    points = points_along(curve, label)
    reward = points["predicted_reward"] - base
    axes.plot(points["predicted_improvement"], reward, color=colours.line, label="optimum on the sample")
    axes.axvline(margin, color=colours.ink, linewidth=1, label=f"margin = {margin:.4g}")
    if answer["feasible"] == "yes":
        at = float(answer["predicted_improvement"][index]), float(answer["predicted_reward"]) - base
        axes.plot(*at, "o", color=colours.point, label="at λ*")
    axes.set(xlabel=f"improvement of {literal(label)}", ylabel="reward", title="Trade-off")


def legend_below(axes: Axes, below: float = -0.19) -> None:
    """Put the legend under the axes, where it hides nothing."""
    place = (0.5, below)
    axes.legend(loc="upper center", bbox_to_anchor=place, ncols=2, frameon=False, fontsize="small")
