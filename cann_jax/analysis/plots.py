"""``dual.png``: the dual curve with λ* and what training can reach, the trade-off, the tilted score cloud."""

import dataclasses
import io

import jax
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cann_jax.analysis.analyse import Analysis
from cann_jax.analysis.reach import Reach
from cann_jax.core.dual import tilted_weights
from cann_jax.core.feasibility import Feasible
from cann_jax.core.scores import present
from cann_jax.files.atomic import write_bytes_atomic

SHOWN = 4000  # responses in the cloud; more would only overlap


def draw_analysis(path: epath.PathLike, found: Analysis) -> None:
    """Draw three panels for the first constraint: dual curve, trade-off, and scores with weights under λ*."""
    figure = Figure(figsize=(13, 4))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.05, 0.13, 0.99, 0.92, wspace=0.22)  # solving a layout takes half a second
    curve_axes, trade_axes, cloud_axes = figure.subplots(1, 3)
    _dual_curve(curve_axes, found)
    _trade_off(trade_axes, found)
    _cloud(cloud_axes, found)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_bytes_atomic(path, picture.getvalue())


def literal(name: str) -> str:
    """Return a name as a label that Matplotlib writes as it is, and does not read as a formula."""
    return name.replace("$", r"\$")


def _reached(found: Analysis) -> np.ndarray:
    return np.equal(found.by_margin.solutions.feasible, Feasible.YES)


def _dual_curve(axes: Axes, found: Analysis) -> None:
    name, kept = literal(found.problem.names[0]), _reached(found)
    multipliers = found.by_margin.solutions.multipliers[kept, 0]
    axes.plot(found.by_margin.margins[kept, 0], multipliers, color="C0")
    margin = float(found.problem.margins[0])
    axes.axvline(found.largest_margin[0], color="grey", linestyle=":", label="largest on the sample")
    attainable = 0.0 if found.reach is None else _mark_reach(axes, found.reach, margin)
    if np.all(np.isfinite(found.solution.multipliers)):
        value = float(found.solution.multipliers[0])
        axes.plot([margin], [value], "o", color="C3", label=f"λ* = {value:.4g}")
        if found.intervals:
            low, high = (float(end[0]) for end in found.intervals.multipliers)
            top = high if np.isfinite(high) else axes.get_ylim()[1]
            axes.plot([margin, margin], [low, top], color="C3", linewidth=3, alpha=0.4)
        usual = float(np.quantile(multipliers, 0.9)) if len(multipliers) else 0
        axes.set_ylim(0, max(2.5 * value, 1.2 * attainable, 1e-3, usual))
    axes.set(xlabel=f"margin of {name}", ylabel=f"λ of {name}", title="Multiplier")
    axes.legend()


def _mark_reach(axes: Axes, reach: Reach, margin: float) -> float:
    """Draw the ceiling and the attainable λ; return that λ, 0 where none meets the margins."""
    ceiling, value = float(reach.attainable.ceiling[0]), float(reach.attainable.multipliers[0])
    axes.axvline(ceiling, color="C2", linestyle="--", label="ceiling of training")
    if not reach.reachable:
        return 0.0
    axes.plot([margin], [value], "s", color="C2", label=f"attainable λ = {value:.4g}")
    return value


def _trade_off(axes: Axes, found: Analysis) -> None:
    name, kept = literal(found.problem.names[0]), _reached(found)
    solutions = found.by_margin.solutions
    axes.plot(solutions.predicted_improvement[kept, 0], solutions.predicted_reward[kept], color="C0")
    if found.feasible == Feasible.YES:
        at = float(found.solution.predicted_improvement[0]), float(found.solution.predicted_reward)
        axes.plot(*at, "o", color="C3", label="at λ*")
        axes.legend()
    axes.set(xlabel=f"predicted improvement of {name}", ylabel="predicted reward", title="Trade-off")


def _cloud(axes: Axes, found: Analysis) -> None:
    scores, name = found.problem.scores, literal(found.problem.names[0])
    multipliers = np.where(np.isfinite(found.solution.multipliers), found.solution.multipliers, 0)
    there = np.flatnonzero(present(scores))
    shown = np.unravel_index(there[:: max(1, len(there) // SHOWN)], scores.reward.shape)
    prompts, place = np.unique(shown[0], return_inverse=True)
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[prompts], dataclasses.replace(scores, baseline=None))
    weights = np.asarray(tilted_weights(multipliers.astype(np.float32), own, found.beta))
    points = np.asarray(own.reward)[place, shown[1]], np.asarray(own.constraints)[place, shown[1], 0]
    size = np.sqrt(weights[place, shown[1]])
    style = {"color": "C3", "linewidths": 0, "alpha": np.clip(size, 0.02, 1)}
    axes.scatter(*points, 3, color="lightgrey", label="reference")
    axes.scatter(*points, 4 + 60 * size, label="weight under λ*", **style)
    axes.set(xlabel="reward", ylabel=name, title="Responses")
    axes.legend()
