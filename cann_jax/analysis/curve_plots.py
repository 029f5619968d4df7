"""The curve of an analysis as pictures, drawn from ``curve.parquet`` and ``dual.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes


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


def score_label(answer: Mapping[str, Any], name: str) -> str:
    """Return a constraint's name as a label: −NAME where it is a cost, whose sign is changed."""
    cost = name.partition("@")[0] in answer.get("costs", ())
    return "−" * cost + literal(name)


def reward_label(answer: Mapping[str, Any]) -> str:
    """Return "reward" as a label, or −COLUMN where it is a cost."""
    column = str(answer.get("reward", "reward"))
    return f"−{literal(column)}" if column in answer.get("costs", ()) else "reward"


def points_along(curve: pa.Table, answer: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
    """Return the feasible points along the margins as columns: one constraint's numbers, the reward and KL.

    ``asked`` is the margin or, of several, which move together, the factor s by which all are scaled.
    """
    names, label = answer["constraints"], answer["constraints"][index]
    kept = curve.filter(pc.and_(pc.equal(curve["along"], "margin"), pc.equal(curve["feasible"], "yes")))
    of_constraint = ("margin", "multiplier", "predicted_improvement")
    columns = {name: f"{name}/{label}" for name in of_constraint} | {
        name: name for name in ("predicted_reward", "kl")
    }
    found = {name: kept[column].to_numpy() for name, column in columns.items()}
    if len(names) == 1:
        return found | {"asked": found["margin"]}
    largest = max(range(len(names)), key=lambda j: abs(answer["margins"][j]))
    unit, values = answer["margins"][largest], kept[f"margin/{names[largest]}"].to_numpy()
    return found | {"asked": values / unit if unit else np.ones(len(values))}


def interval_of(found: Mapping[str, Any], label: str) -> tuple[float, float] | None:
    """Return the interval of a constraint's λ in ``dual.json`` or its ``attainable``; None where none is."""
    ends = found["by_constraint"][label].get("multiplier_interval")
    return None if ends is None else (float(ends[0]), float(ends[1]))


def draw_multiplier(
    axes: Axes, curve: pa.Table, answer: Mapping[str, Any], index: int = 0, colours: Colours = COLOURS
) -> None:
    """Draw λ by the margin, or of several by what scales them all, with what is asked, λ, and the bounds."""
    label, margin = answer["constraints"][index], float(answer["margins"][index])
    points, reach = points_along(curve, answer, index), answer.get("attainable")
    alone = len(answer["constraints"]) == 1
    asked, multipliers = points["asked"], points["multiplier"]
    at, unit = (margin, 1.0) if alone else (1.0, margin)
    largest = float(answer["largest_margin"][0] if alone else answer.get("margin_scale", "inf"))
    axes.plot(asked, multipliers, color=colours.line, label="λ* by the margin" if alone else "λ* by s")
    seen = np.append(asked, largest if np.isfinite(largest) else at)
    mark(axes, "x", at, seen, f"margin = {margin:.4g}" if alone else f"s = 1: margin = {margin:.4g}", colours)
    heights = [float(np.quantile(multipliers, 0.9)) if len(multipliers) else 0.0]
    heights += _mark_lambda(axes, at, answer, index, ("o", colours.point, "λ*", 2.5, 7))
    if reach is not None:
        ceiling = float(reach["ceiling"][index])
        if alone or 0 < ceiling < unit * np.max(seen):  # beyond, it bounds nothing here
            axes.axvline(ceiling / unit, color=colours.reach, linestyle="--", label="ceiling of training")
        style = ("s", colours.reach, "attainable λ", 1.2, 3)
        heights += _mark_lambda(axes, at, reach, index, style) if reach["reachable"] else []
    if np.isfinite(largest):
        name = "largest on the sample" if alone else f"largest s on the sample = {largest:.4g}"
        axes.axvline(largest, color=colours.muted, linestyle=":", label=name)
    highest = float(multipliers.max(initial=0))
    top = max(heights) or highest or 1.0
    if highest > top:
        leaves = int(np.argmax(multipliers > top))
        left: dict[str, Any] = {"color": colours.line, "clip_on": False, "linestyle": "none"}
        axes.plot(asked[leaves], top, marker="^", label=f"λ* goes on, to {highest:.3g}", **left)
    axes.set_ylim(0, top)
    name = score_label(answer, label)
    axes.set(xlabel=f"margin of {name}" if alone else "s: all margins scaled together", ylabel=f"λ of {name}")
    axes.set_title("Multiplier")


def mark(axes: Axes, along: str, at: float, seen: np.ndarray, label: str, colours: Colours = COLOURS) -> None:
    """Draw a line across; where what is ``seen`` would shrink to less than half, only say that it is off."""
    off = len(seen) > 0 and at - np.max(seen) > np.ptp(seen)
    line: dict[str, Any] = {
        "color": colours.ink,
        "linewidth": 1,
        "label": f"{label}, not in the picture" if off else label,
    }
    if off:
        axes.plot([], [], **line)
    else:
        (axes.axvline if along == "x" else axes.axhline)(at, **line)


def _mark_lambda(
    axes: Axes, at: float, found: Mapping[str, Any], index: int, style: tuple[str, str, str, float, float]
) -> list[float]:
    """Draw a λ where it is asked for, and its interval; return the heights that the picture should have."""
    marker, colour, name, room, width = style
    value = float(found["multipliers"][index])
    if not np.isfinite(value):
        return []
    heights = [room * value]
    interval = interval_of(found, list(found["by_constraint"])[index])
    if interval is not None:
        low, high = interval
        top = high if np.isfinite(high) else 1e6 * max(value, 1.0)  # out of the picture
        ends = f"interval of {name}: {low:.3g} to {high:.3g}"
        axes.plot([at] * 2, [low, top], color=colour, linewidth=width, alpha=0.5, label=ends)
        heights += [1.15 * high] if np.isfinite(high) else []
    dot: dict[str, Any] = {
        "color": colour,
        "markersize": 7,
        "linestyle": "none",
        "clip_on": False,
        "zorder": 3,
    }
    axes.plot([at], [value], marker=marker, label=f"{name} = {value:.4g}", **dot)
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
    _draw_outcome(axes, curve, answer, index, colours, "predicted_reward", base)
    axes.set(ylabel=reward_label(answer), title="Trade-off")


def draw_kl(axes: Axes, curve: pa.Table, answer: Mapping[str, Any], index: int = 0) -> None:
    """Draw the KL from the reference by the predicted improvement of a constraint."""
    _draw_outcome(axes, curve, answer, index, COLOURS, "kl")
    axes.set_ylabel("KL, nats")


def _draw_outcome(
    axes: Axes,
    curve: pa.Table,
    answer: Mapping[str, Any],
    index: int,
    colours: Colours,
    name: str,
    base: float = 0.0,
) -> None:
    margin, points = float(answer["margins"][index]), points_along(curve, answer, index)
    improvement = points["predicted_improvement"]
    axes.plot(improvement, points[name] - base, color=colours.line, label="optimum on the sample")
    mark(axes, "x", margin, improvement, f"margin = {margin:.4g}", colours)
    if answer["feasible"] == "yes":
        at = float(answer["predicted_improvement"][index]), float(answer[name]) - base
        axes.plot(*at, "o", color=colours.point, label="at λ*")
    together = "" if len(answer["constraints"]) == 1 else ", all margins scaled together"
    axes.set_xlabel(f"improvement of {score_label(answer, answer['constraints'][index])}{together}")


def legend_below(axes: Axes, below: float = -0.19) -> None:
    """Put the legend under the axes, where it hides nothing."""
    place = (0.5, below)
    axes.legend(loc="upper center", bbox_to_anchor=place, ncols=2, frameon=False, fontsize="small")
