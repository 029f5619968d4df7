"""Charts of what was asked, predicted and measured, of one run and of several."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from cann_jax.analysis.curve_plots import literal
from cann_jax.reporting.charts import Chart
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.svg import AFTER, BEFORE, INK, MUTED, TINT, drawn
from cann_jax.run.results import asked_change, digits_of, number, predicted_of, score_rows

HEIGHT = 1.5  # inches
NUMBERS = 5  # below an axis, at most: more labels of small numbers run into each other


def improvements(findings: Findings) -> list[Chart]:
    """Return a chart a score: what was asked, predicted and measured, in the score's units."""
    results = findings.results
    if results is None:
        return []
    return [
        _improvement(index, row.get("label", name), row, predicted_of([results]))
        for index, (name, row) in enumerate(score_rows(results))
        if row["measured"] is not None
    ]


def _improvement(index: int, label: str, row: Mapping[str, Any], predicted: str) -> Chart:
    digits = digits_of(row)

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
        _estimate(axes, 1, row.get("predicted"), row.get("predicted_interval"), ("D", BEFORE))
        _estimate(axes, 0, row["measured"], row["interval"], ("o", AFTER))
        if (asked := asked_change(row)) is not None:
            right = max(axes.get_xlim()[1], asked)
            axes.axvspan(asked, right + 0.05 * abs(right), color=TINT, alpha=0.5, linewidth=0)
            axes.axvline(asked, color=INK, linewidth=1.5)
            axes.annotate(
                f"asked {number(asked, digits)}",
                (asked, 1),
                (3, 3),
                ("data", "axes fraction"),
                "offset points",
            )
        axes.set(yticks=(1, 0), yticklabels=(predicted.replace(" ", "\n", 1), "measured"), ylim=(-0.6, 1.6))
        axes.set_xlabel(f"change of {literal(label)}")
        axes.locator_params(axis="x", nbins=NUMBERS)

    line = asked_change(row)
    asked = "" if line is None else f", what was asked, {number(line, digits)}, as a line"
    title = f"{label}: change over the reference, {predicted} and measured, with intervals{asked}"
    return Chart(title, drawn(draw, f"improvement-{index}", title, HEIGHT))


def _estimate(
    axes: Axes,
    height: float,
    value: float | None,
    ends: Sequence[float] | None,
    style: tuple[str, str],
) -> None:
    marker, colour = style
    if value is None:
        axes.annotate("not known", (0, height), (6, 0), textcoords="offset points", va="center", color=MUTED)
        return
    if ends is not None:
        axes.plot(ends, [height] * 2, color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
    axes.plot([value], [height], marker, color=colour, markersize=7)


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
            if (asked := asked_change(row)) is not None:
                axes.plot([asked] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=1.5)
        axes.set(yticks=range(len(rows)), yticklabels=map(literal, rows), ylim=(len(rows) - 0.4, -0.6))
        axes.set_xlabel(f"change of {literal(label)}")
        axes.locator_params(axis="x", nbins=NUMBERS)

    margin = ", the margin as a line" if any(asked_change(row) is not None for row in rows.values()) else ""
    title = f"{label}: measured change with interval{margin}"
    return Chart(title, drawn(draw, f"compared-{index}", title, 0.8 + 0.35 * len(rows)))
