"""Scores before and after: their distributions and means, over all prompts and by group."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from cann_jax.analysis.curve_plots import legend_below, literal
from cann_jax.files.numbers import decimals
from cann_jax.reporting.charts import Chart
from cann_jax.reporting.findings import Findings
from cann_jax.reporting.svg import AFTER, BEFORE, drawn
from cann_jax.run.outputs import ALIGNED, REFERENCE
from cann_jax.run.results import digits_of, interval, number
from cann_jax.stages.evaluate import measure

ALL = "all prompts"
BINS = 30
LARGEST = 6  # groups with distributions of their own; the table has all
HEIGHT = 2.2  # inches
HEADINGS = ("score", "group", "prompts", "before", "after", "change", "interval")


@dataclass(frozen=True)
class Part:
    """Responses of some prompts: their number, and the scores (prompts, responses) before and after."""

    name: str
    before: np.ndarray
    after: np.ndarray


def parts_of(findings: Findings, score: str) -> list[Part]:
    """Return a score of all prompts, and of each group, the largest groups first."""
    tables = findings.responses
    group = tables[REFERENCE].column("group") if "group" in tables[REFERENCE].column_names else None
    parts = [_part(tables, score, ALL, None)]
    counted = [] if group is None else pc.value_counts(group).to_pylist()
    if len(counted) < 2:
        return parts
    names = sorted(counted, key=lambda each: (-each["counts"], str(each["values"])))
    return parts + [
        _part(tables, score, each["values"] or "no group", _members(group, each["values"])) for each in names
    ]


def _members(group: pa.ChunkedArray, name: str | None) -> pa.ChunkedArray:
    return pc.is_null(group) if name is None else pc.fill_null(pc.equal(group, name), False)


def _part(tables: dict[str, pa.Table], score: str, name: str, rows: pa.ChunkedArray | None) -> Part:
    columns = []
    for policy in (REFERENCE, ALIGNED):
        table = tables[policy] if rows is None else tables[policy].filter(rows)
        responses = 1 + int(pc.max(tables[policy].column("response")).as_py())
        columns.append(table.column(score).to_numpy().reshape(-1, responses))
    return Part(name, *columns)


def changes(findings: Findings) -> list[tuple[str, ...]]:
    """Return a row a score and group: means before and after, and the change with its interval."""
    return [_change(findings, score, part) for score in findings.scores for part in parts_of(findings, score)]


def _change(findings: Findings, score: str, part: Part) -> tuple[str, ...]:
    config = findings.run.config
    found = measure(part.before.mean(1), part.after.mean(1), config.evaluate, config.seed)
    digits = digits_of(found)
    means = (f"{found[when]:.{digits}f}" for when in ("before", "after"))
    return (
        *(score, part.name, str(len(part.before)), *means),
        *(number(found["measured"], digits), interval(found["interval"], digits)),
    )


def distributions(findings: Findings) -> list[Chart]:
    """Return a chart a score, of all prompts and of each large group: how the scores are spread."""
    return [
        _distribution(f"{place}-{index}", score, part)
        for place, score in enumerate(findings.scores)
        for index, part in enumerate(parts_of(findings, score)[: 1 + LARGEST])
    ]


def _distribution(name: str, score: str, part: Part) -> Chart:
    every = np.concatenate([part.before.ravel(), part.after.ravel()])
    edges = np.histogram_bin_edges(every, BINS)

    def draw(axes: Axes) -> None:
        for label, values, colour, style in _policies(part):
            shares = np.histogram(values, edges)[0] / values.size
            axes.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.4, label=label)
            axes.axvline(values.mean(), color=colour, linestyle=style, linewidth=0.9)
        axes.set(xlabel=literal(score), ylabel="share of responses", ylim=(0, None))
        legend_below(axes, -0.3)

    title = f"{score} of {part.name}: reference and aligned, means as lines"
    digits = decimals(float(every.std()))
    rows = [[label, *_quantiles(values, digits)] for label, values, _, _ in _policies(part)]
    headings = ("policy", "mean", "10 %", "25 %", "50 %", "75 %", "90 %")
    return Chart(title, drawn(draw, f"distribution-{name}", title, HEIGHT), headings, rows)


def _policies(part: Part) -> Iterator[tuple[str, np.ndarray, str, str]]:
    yield REFERENCE, part.before, BEFORE, "--"
    yield ALIGNED, part.after, AFTER, "-"


def _quantiles(values: np.ndarray, digits: int) -> list[str]:
    found = (values.mean(), *np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9)))
    return [f"{each:.{digits}f}" for each in found]
