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
from cann_jax.analysis.curve_plots import (
    COLOURS,
    draw_kl,
    draw_multiplier,
    draw_trade_off,
    legend_below,
    literal,
    mark,
    reward_label,
    score_label,
)
from cann_jax.core.arrays import response_mean
from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.per_prompt import predict_per_prompt
from cann_jax.core.feasibility import Feasible
from cann_jax.core.problem import weights_and_baseline
from cann_jax.core.scores import present, response_mask
from cann_jax.files.atomic import write_bytes_atomic

SHOWN = 4000  # responses in the cloud; more would only overlap
ROWS = 8  # constraints in the picture: Agg draws 65,536 pixels at most, and each takes a third of a second


def draw_analysis(path: epath.PathLike, found: Analysis, answer: Mapping[str, Any], curve: pa.Table) -> None:
    """Draw ``picture_of`` to a file."""
    picture = io.BytesIO()
    picture_of(found, answer, curve).savefig(picture, format="png", dpi=100)
    write_bytes_atomic(path, picture.getvalue())


def picture_of(found: Analysis, answer: Mapping[str, Any], curve: pa.Table) -> Figure:
    """Return a row for each constraint: λ by the margin, reward and KL by improvement, weights under λ*.

    ``answer`` and ``curve`` are what ``dual.json`` and ``curve.parquet`` hold.
    """
    names = answer["constraints"]
    rows = min(len(names), ROWS)
    figure = Figure(figsize=(14, 5.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * rows, 3, wspace=0.06)
    for row in range(rows):
        whole, upper, lower = slice(2 * row, 2 * row + 2), 2 * row, 2 * row + 1
        multiplier, reward, cloud = (
            figure.add_subplot(grid[place]) for place in ((whole, 0), (upper, 1), (whole, 2))
        )
        kl = figure.add_subplot(grid[lower, 1], sharex=reward)
        draw_multiplier(multiplier, curve, answer, row)
        draw_trade_off(reward, curve, answer, row)
        draw_kl(kl, curve, answer, row)
        _cloud(cloud, found, answer, row)
        reward.set_xlabel("")
        reward.tick_params(labelbottom=False)
        for axes, below in ((multiplier, -0.15), (kl, -0.4), (cloud, -0.15)):
            legend_below(axes, below)
    if rows < len(names):
        figure.suptitle(f"{rows} of {len(names)} constraints; curve.parquet has all")
    return figure


def _cloud(axes: Axes, found: Analysis, answer: Mapping[str, Any], index: int) -> None:
    """Draw the responses of a constraint's prompts by weight under λ*, both means, and the level asked."""
    problem, name = found.problem, answer["constraints"][index]
    scores, targets = problem.scores, problem.targets
    weights, baseline = weights_and_baseline(scores)
    inside = problem.about([index])
    own = np.where(inside, weights, 0) / np.sum(weights, where=inside)
    there = present(scores)
    places = np.flatnonzero(there & inside[:, None])
    shown = np.unravel_index(places[:: max(1, len(places) // SHOWN)], there.shape)
    rewards = np.asarray(scores.reward)
    # Prepared scores of a group are divided by its share; here they are the table's.
    values = np.asarray(scores.constraints)[*shown, index] * np.asarray(targets.shares)[index]
    axes.scatter(rewards[shown], values, 3, color="lightgrey", label="response of the reference")
    solved = found.feasible == Feasible.YES
    if solved:
        size = np.sqrt(_weights(found, shown))
        style: dict[str, Any] = {"color": COLOURS.point, "linewidths": 0}
        strength: Any = np.clip(0.6 * size, 0.02, 1)  # one a point, which matplotlib's types do not know
        axes.scatter(rewards[shown], values, 2 + 30 * size, alpha=strength, **style)
        axes.scatter([], [], 15, label="its weight under λ*", **style)
    marker: dict[str, Any] = {"markersize": 9, "markeredgecolor": "white", "linestyle": "none"}
    means = own @ np.asarray(response_mean(scores.reward, response_mask(scores))), float(baseline[index])
    mark(axes, "y", means[1] + float(answer["margins"][index]), values, "asked of the mean")
    axes.plot(*means, marker="X", color=COLOURS.ink, label="mean of the reference", **marker)
    if solved:
        after, _ = predict_per_prompt(scores, found.solution.multipliers, found.beta)
        means = own @ np.asarray(after), float(found.solution.predicted_constraints[index])
        axes.plot(*means, marker="o", color=COLOURS.line, label="mean under λ*", **marker)
    axes.set(xlabel=reward_label(answer), ylabel=score_label(answer, name))
    group = name.partition("@")[2]
    axes.set_title(f"Responses to prompts of {literal(group)}" if group else "Responses")


def _weights(found: Analysis, shown: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the weights under λ* of some responses, given as their prompts and their places in these."""
    prompts, place = np.unique(shown[0], return_inverse=True)
    scores = dataclasses.replace(found.problem.scores, baseline=None)
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[prompts], scores)
    weights = np.asarray(tilted_weights(found.solution.multipliers, own, found.beta))
    return np.asarray(weights[place, shown[1]])
