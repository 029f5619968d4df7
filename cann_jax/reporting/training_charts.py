"""Charts of how a training went, by step."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cann_jax.analysis.curve_plots import legend_below
from cann_jax.reporting.charts import POINTS, Chart, evenly
from cann_jax.reporting.findings import EndedStages, TrainingLog
from cann_jax.reporting.svg import AFTER, BEFORE, MUTED, drawn

HEIGHT = 2.3  # inches


def trainings(findings: EndedStages[Any]) -> list[tuple[TrainingLog, list[Chart]]]:
    """Return each training with its charts: loss, calibration slope, gradient norm, and KL, by step."""
    return [(log, list(_training(log, index))) for index, log in enumerate(findings.trainings)]


def _training(log: TrainingLog, index: int) -> Iterator[Chart]:
    kept = "on prompts kept from training"
    loss = {"training": log.column("loss"), kept: log.column("heldout_loss")}
    start = None if log.health is None else log.health.start_loss
    yield from _by_step(log, f"{index}-loss", "loss", loss, (start, "at the start"))
    slope = {kept: log.column("heldout_slope")}
    yield from _by_step(log, f"{index}-slope", "calibration slope", slope, (1.0, "as far as it knows"))
    norm = {"before clipping": log.column("gradient_norm")}
    yield from _by_step(log, f"{index}-norm", "gradient norm", norm)
    steps, ratio = log.column("log_ratio")
    away = {"estimate of each step's batch": (steps, -ratio)}
    yield from _by_step(log, f"{index}-kl", "KL(π_ref ‖ π), nats", away, (0.0, "the reference"))


def _by_step(
    log: TrainingLog,
    name: str,
    title: str,
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]],
    level: tuple[float | None, str] = (None, ""),
) -> Iterator[Chart]:
    """Yield a chart of values by step, with a level to compare them with, if there are any."""
    known = {label: values for label, values in columns.items() if len(values[0])}
    if not known:
        return
    at, meaning = level

    def draw(axes: Axes) -> None:
        styles = (("-", AFTER), ("o--", BEFORE))
        for (label, (steps, values)), (style, colour) in zip(known.items(), styles, strict=False):
            few = "o-" if len(steps) < 2 * POINTS and style == "-" else style
            axes.plot(steps + 1, values, few, color=colour, markersize=4, label=label)
        if at is not None:
            axes.axhline(at, color=MUTED, linestyle=":", label=f"{at:.3g}, {meaning}")
        axes.set(xlabel="steps taken", ylabel=title)
        legend_below(axes, -0.3)

    by_step = [dict(zip(*each, strict=True)) for each in known.values()]
    rows = [[str(step + 1), *(_cell(each.get(step)) for each in by_step)] for step in _steps_of(known)]
    whole = f"{log.name}: {title} by step"
    yield Chart(whole, drawn(draw, f"training-{name}", whole, HEIGHT), ("step", *known), rows)


def _steps_of(known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Return some steps, evenly chosen, with all of those that have few values."""
    chosen: set[int] = set()
    for steps, _ in known.values():
        chosen |= {int(steps[place]) for place in evenly(len(steps))}
    return sorted(chosen)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
