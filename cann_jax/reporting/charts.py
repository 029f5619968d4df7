"""The charts of a run's report, each with a table that says the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from cann_jax.analysis.curve_plots import (
    draw_multiplier,
    draw_trade_off,
    legend_below,
    literal,
    points_along,
)
from cann_jax.reporting.findings import Findings, TrainingLog
from cann_jax.reporting.results import constraint_rows, score_rows
from cann_jax.reporting.svg import AFTER, BEFORE, COLOURS, INK, MUTED, TINT, drawn

POINTS = 12  # rows of a chart's table, of a curve or a training with more
TALL, LOW, FLAT = 3.3, 2.3, 1.5  # inches


@dataclass(frozen=True)
class Chart:
    """A picture, what it shows in a line, and its numbers."""

    title: str
    svg: Markup
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def improvements(findings: Findings) -> list[Chart]:
    """Return a chart a score: what was asked, predicted and measured, in the score's units."""
    results = findings.results
    if results is None:
        return []
    return [
        _improvement(index, row.get("label", name), row)
        for index, (name, row) in enumerate(score_rows(results))
        if row["measured"] is not None
    ]


def _improvement(index: int, label: str, row: Mapping[str, Any]) -> Chart:
    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        _estimate(axes, 1, row.get("predicted"), row.get("predicted_interval"), ("D", BEFORE))
        _estimate(axes, 0, row["measured"], row["interval"], ("o", AFTER))
        if (asked := row.get("asked")) is not None:
            right = max(axes.get_xlim()[1], asked)
            axes.axvspan(asked, right + 0.05 * abs(right), color=TINT, alpha=0.5, linewidth=0)
            axes.axvline(asked, color=INK, linewidth=1.5)
            axes.annotate(
                f"asked {asked:+.3f}", (asked, 1), (3, 3), ("data", "axes fraction"), "offset points"
            )
        axes.set(yticks=(1, 0), yticklabels=("predicted", "measured"), ylim=(-0.6, 1.6))
        axes.set_xlabel(f"change of {literal(label)}")

    asked = "" if row.get("asked") is None else f", the margin {row['asked']:+.3f} as a line"
    title = f"{label}: change over the reference, predicted and measured with intervals{asked}"
    return Chart(title, drawn(draw, f"improvement-{index}", title, FLAT))


def _estimate(
    axes: Axes,
    height: float,
    value: float | None,
    ends: Sequence[float] | None,
    style: tuple[str, str],
    label: str | None = None,
) -> None:
    marker, colour = style
    if value is None:
        axes.annotate("not known", (0, height), (6, 0), textcoords="offset points", va="center", color=MUTED)
        return
    if ends is not None:
        axes.plot(ends, [height] * 2, color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
    axes.plot([value], [height], marker, color=colour, markersize=7, label=label)


def compared(runs: Mapping[str, Findings]) -> list[Chart]:
    """Return a chart a score that shows what each of several runs, by name, was asked and has measured."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, findings in runs.items():
        for score, row in [] if findings.results is None else score_rows(findings.results):
            if row["measured"] is not None:
                found.setdefault(row.get("label", score), {})[name] = row
    return [_compared(index, label, rows) for index, (label, rows) in enumerate(found.items())]


def _compared(index: int, label: str, rows: Mapping[str, Mapping[str, Any]]) -> Chart:
    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        for place, row in enumerate(rows.values()):
            _estimate(axes, place, row["measured"], row["interval"], ("o", AFTER))
            if (asked := row.get("asked")) is not None:
                axes.plot([asked] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=1.5)
        axes.set(yticks=range(len(rows)), yticklabels=map(literal, rows), ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel(f"change of {literal(label)}")

    title = f"{label}: measured change with interval, the margin as a line"
    return Chart(title, drawn(draw, f"compared-{index}", title, 0.8 + 0.35 * len(rows)))


def curves(findings: Findings) -> list[Chart]:
    """Return, for each constraint, λ by the margin, and the trade-off with this run's point on it."""
    if findings.dual is None or findings.curve is None:
        return []
    found = []
    for index in range(len(findings.dual["constraints"])):
        found += [_multiplier(findings, index), _trade_off(findings, index)]
    return found


def _multiplier(findings: Findings, index: int) -> Chart:
    curve, answer = findings.curve, findings.dual
    label = answer["constraints"][index]

    def draw(axes: Axes) -> None:
        draw_multiplier(axes, curve, answer, index, COLOURS)
        axes.set_title("")
        legend_below(axes, -0.22)

    points = points_along(curve, label)
    title = f"λ of {label} by the margin"
    svg = drawn(draw, f"multiplier-{index}", title, TALL)
    return Chart(title, svg, ("margin", "λ*", "KL, nats"), _sampled(points, "margin", "multiplier", "kl"))


def _trade_off(findings: Findings, index: int) -> Chart:
    curve, answer, base = findings.curve, findings.dual, findings.reference_reward
    label = answer["constraints"][index]
    known = base is not None

    def draw(axes: Axes) -> None:
        draw_trade_off(axes, curve, answer, index, COLOURS, base if known else 0.0)
        if known and findings.results is not None:
            _outcomes(axes, findings.results, label)
        axes.set(title="", ylabel="change of reward" if known else "reward")
        legend_below(axes, -0.22)

    points = points_along(curve, label)
    points["predicted_reward"] = points["predicted_reward"] - (base or 0.0)
    title = f"reward by the improvement of {label}"
    svg = drawn(draw, f"trade-off-{index}", title, TALL)
    headings = ("improvement", "change of reward" if known else "reward", "KL, nats")
    return Chart(title, svg, headings, _sampled(points, "predicted_improvement", "predicted_reward", "kl"))


def _outcomes(axes: Axes, results: Mapping[str, Any], label: str) -> None:
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
    count = len(points[names[0]])
    chosen = np.unique(np.linspace(0, count - 1, min(POINTS, count)).astype(int)) if count else ()
    return [[f"{points[name][row]:.4g}" for name in names] for row in chosen]


def trainings(findings: Findings) -> list[tuple[TrainingLog, list[Chart]]]:
    """Return each training with its charts: loss, calibration slope, gradient norm, and KL, by step."""
    return [(log, list(_training(log, index))) for index, log in enumerate(findings.trainings)]


def _training(log: TrainingLog, index: int) -> Iterator[Chart]:
    kept = "on prompts kept from training"
    loss = {"training": log.column("loss"), kept: log.column("heldout_loss")}
    start = log.health and log.health.start_loss
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
    yield Chart(whole, drawn(draw, f"training-{name}", whole, LOW), ("step", *known), rows)


def _steps_of(known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Return some steps, evenly chosen, with all of those that have few values."""
    chosen: set[int] = set()
    for steps, _ in known.values():
        places = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).astype(int))
        chosen |= {int(steps[place]) for place in places}
    return sorted(chosen)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
