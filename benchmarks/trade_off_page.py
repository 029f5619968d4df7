"""The page and the picture of ``trade_off.py``."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WITH_MARGIN = ("one_shot", "dial", "primal_dual", "resample")  # their dial is the margin
ROW = "| method | dial | runs | constraint | reward | KL | error | holds | trainings | tokens | PFLOP | min |"


class Point(NamedTuple):
    """One setting of a method, over its seeds: means, and the mean of the runs' own 95 % intervals.

    The seeds share the prompts that they are evaluated on, so that their intervals are not made narrower.
    """

    method: str
    dial: float | None
    runs: Sequence[dict[str, Any]]

    def mean(self, *keys: str) -> Any:
        values = []
        for run in self.runs:
            value: Any = run
            for key in keys:
                value = value[key]
            values.append(value)
        return np.mean(np.asarray(values, float), 0)  # null is NaN


def write_page(folder: Path, rows: Sequence[dict[str, Any]], said: str) -> None:
    """Write ``trade_off.md`` and ``trade_off.png`` of the finished rows."""
    parts = ["# The trade-off of every method", *said.strip().split("\n\n")[:2]]
    if machines := sorted({row["machine"] for row in rows}):
        parts.append(f"Machine: {'; '.join(machines)}. Intervals: 95 %, of a run; numbers: means over seeds.")
    every = {scorers: points(rows, scorers) for scorers in sorted({row["key"][0] for row in rows})}
    for scorers, found in every.items():
        lines = [ROW, "|---|---:|---:|---|---|" + "---:|" * 7, *map(line, found)]
        refused = [row for row in rows if row["key"][0] == scorers and "refused" in row]
        lines += [f"| {r['key'][1]} | {r['key'][2]} | 1 | {r['refused']} |" + " |" * 8 for r in refused]
        parts += [f"## {scorers}", "\n".join(lines), *until_certified(found)]
    (folder / "trade_off.md").write_text("\n\n".join(parts) + "\n")
    if every:
        draw(folder / "trade_off.png", every)


def points(rows: Iterable[dict[str, Any]], scorers: str) -> list[Point]:
    """Return the points of a pair of scorers, in the order of the rows' methods and dials."""
    own = [row for row in rows if row["key"][0] == scorers and "refused" not in row]

    def place(row: dict[str, Any]) -> tuple[str, float]:
        return row["key"][1], -1.0 if row["key"][2] is None else row["key"][2]

    groups = groupby(sorted(own, key=place), key=lambda row: (row["key"][1], row["key"][2]))
    return [Point(*key, list(runs)) for key, runs in groups]


def line(point: Point) -> str:
    """Return a point's row of the table."""

    def span(value: str, interval: str) -> str:
        low, high = point.mean(interval)
        return f"{point.mean(value):+.3f} [{low:+.3f}, {high:+.3f}]"

    asked = point.dial if point.method in WITH_MARGIN else None
    errors = [abs(run["measured"] - asked) for run in point.runs] if asked is not None else []
    cells = (
        point.method,
        "–" if point.dial is None else f"{point.dial:g}",
        len(point.runs),
        span("measured", "interval"),
        span("reward", "reward_interval"),
        f"{point.mean('kl'):.2f}",
        f"{np.mean(errors):.3f}" if errors else "–",
        f"{sum(map(holds, point.runs))} of {len(point.runs)}" if errors else "–",
        f"{point.mean('compute', 'policy_rounds'):.0f}",
        f"{point.mean('compute', 'generated_tokens'):.0f}",
        f"{point.mean('compute', 'training_flops') / 1e15:.1f}",
        f"{point.mean('compute', 'seconds') / 60:.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def holds(run: dict[str, Any]) -> bool:
    return bool(run["verdict"] == "holds")


def until_certified(found: Sequence[Point]) -> list[str]:
    """Return what one margin costs by either method, and the ratio, where both hold."""
    cost = {
        (point.method, point.dial): point.mean("compute", "seconds")
        for point in found
        if point.method in ("one_shot", "primal_dual") and all(map(holds, point.runs))
    }
    both = [dial for method, dial in cost if method == "one_shot" and ("primal_dual", dial) in cost]
    return [
        "\n".join(
            f"- margin {dial:g}: certified after {cost['one_shot', dial] / 60:.1f} min in one shot, "
            f"{cost['primal_dual', dial] / 60:.1f} min by primal-dual: "
            f"{cost['one_shot', dial] / cost['primal_dual', dial]:.2f}×"
            for dial in both
        )
    ][: len(both)]


def draw(path: Path, every: dict[str, list[Point]]) -> None:
    """Draw the reward's gain over the constraint's, a panel a pair of scorers, a line a method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(every), 5.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(every), squeeze=False)[0]
    methods = sorted({point.method for found in every.values() for point in found})
    styles = {method: (f"C{n % 10}", "osD^vP*X<>"[n % 10]) for n, method in enumerate(methods)}
    for axis, (scorers, found) in zip(axes, every.items(), strict=True):
        for method, group in groupby(found, key=lambda point: point.method):
            own = list(group)
            x, y = (np.array([p.mean(key) for p in own]) for key in ("measured", "reward"))
            bars = [np.array([p.mean(key) for p in own]).T for key in ("interval", "reward_interval")]
            colour, marker = styles[method]
            axis.errorbar(
                x, y, xerr=abs(bars[0] - x), yerr=abs(bars[1] - y), color=colour, marker=marker,
                linewidth=1.2, elinewidth=0.5, label=method.replace("_", " "),
            )  # fmt: skip
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.axvline(0, color="grey", linewidth=0.5)
        axis.set(title=scorers, xlabel="gain of the constraint, unseen prompts", ylabel="gain of the reward")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
