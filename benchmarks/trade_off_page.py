"""The page and the picture of ``trade_off.py``."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Their dial is the margin. Those that aim above it have no error: what is beyond the margin is meant to be.
ABOVE = ("certified", "primal_dual_raised")
WITH_MARGIN = ("one_shot", "dial", "primal_dual", "resample", *ABOVE)
ROW = (
    "| method | dial | seeds | constraint | reward | KL | error | holds | trainings | tokens | PFLOP | min |"
)


class Point(NamedTuple):
    """One setting of a method, over its seeds: means, and the mean of the runs' own 95 % intervals.

    The seeds share the prompts that they are evaluated on, so that their intervals are not made narrower.

    Args:
        method: The method.
        dial: Its margin, weight or multiplier.
        every: The rows of its seeds, refused ones too.
    """

    method: str
    dial: float | None
    every: Sequence[dict[str, Any]]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The rows that were measured."""
        return [row for row in self.every if "refused" not in row]

    def mean(self, *keys: str) -> Any:
        values = []
        for run in self.runs:
            value: Any = run
            for key in keys:
                value = value[key]
            values.append(value)
        return np.mean(np.asarray(values, float), 0)  # null is NaN


def write_page(folder: Path, every: Sequence[dict[str, Any]], said: str) -> None:
    """Write ``trade_off.md`` and ``trade_off.png`` of the finished rows."""
    rows = latest(every)
    parts = ["# The trade-off of every method", *said.strip().split("\n\n")[:3]]
    if machines := sorted({row["machine"] for row in rows}):
        parts.append(f"Machine: {'; '.join(machines)}. Intervals: 95 %, of a run; numbers: means over seeds.")
    by_scorers = {scorers: points(rows, scorers) for scorers in sorted({row["key"][0] for row in rows})}
    for scorers, found in by_scorers.items():
        lines = [ROW, "|---|---:|---:|---|---|" + "---:|" * 7]
        lines += [line(point) for point in found if point.runs]
        refused = [row for point in found for row in point.every if "refused" in row]
        lines += [
            f"| {r['key'][1]} | {r['key'][2]} | {r['key'][3]} | {r['refused']} |" + " |" * 8 for r in refused
        ]
        parts += [f"## {scorers}", "\n".join(lines), *until_certified(found)]
    (folder / "trade_off.md").write_text("\n\n".join(parts) + "\n")
    measured = {scorers: [point for point in found if point.runs] for scorers, found in by_scorers.items()}
    if any(measured.values()):
        draw(folder / "trade_off.png", {scorers: found for scorers, found in measured.items() if found})


def latest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last row of each key, of those over the last draw of its scorers' and seed's samples."""
    draws = {(row["key"][0], row["key"][3]): row.get("draw") for row in rows}
    own = [row for row in rows if row.get("draw") == draws[row["key"][0], row["key"][3]]]
    return list({tuple(row["key"]): row for row in own}.values())


def points(rows: Iterable[dict[str, Any]], scorers: str) -> list[Point]:
    """Return the points of a pair of scorers, in the order of methods and dials, each's seeds in theirs."""
    own = [row for row in rows if row["key"][0] == scorers]

    def place(row: dict[str, Any]) -> tuple[str, float, int]:
        _, method, dial, seed = row["key"]
        return method, -1.0 if dial is None else dial, seed

    groups = groupby(sorted(own, key=place), key=lambda row: (row["key"][1], row["key"][2]))
    return [Point(*key, list(runs)) for key, runs in groups]


def line(point: Point) -> str:
    """Return a point's row of the table."""

    def span(value: str, interval: str) -> str:
        low, high = point.mean(interval)
        return f"{point.mean(value):+.3f} [{low:+.3f}, {high:+.3f}]"

    asked = point.dial if point.method in WITH_MARGIN else None
    errors = (
        [] if point.method in ABOVE or asked is None else [abs(r["measured"] - asked) for r in point.runs]
    )
    cells = (
        point.method,
        "–" if point.dial is None else f"{point.dial:g}",
        seeds_of(point.runs),
        span("measured", "interval"),
        span("reward", "reward_interval"),
        f"{point.mean('kl'):.2f}",
        f"{np.mean(errors):.3f}" if errors else "–",
        "–" if asked is None else held(point.every),
        f"{point.mean('compute', 'policy_rounds'):.0f}",
        f"{point.mean('compute', 'generated_tokens'):.0f}",
        f"{point.mean('compute', 'training_flops') / 1e15:.1f}",
        f"{point.mean('compute', 'seconds') / 60:.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def seeds_of(rows: Iterable[dict[str, Any]]) -> str:
    return ", ".join(str(row["key"][3]) for row in rows)


def holds(row: dict[str, Any]) -> bool:
    """Return whether the bound of a row's certificate reaches its margin; a refused one's does not."""
    return "refused" not in row and row["lower"] is not None and row["lower"] >= row["key"][2]


def held(rows: Sequence[dict[str, Any]]) -> str:
    return f"{sum(map(holds, rows))} of {len(rows)}"


def until_certified(found: Sequence[Point]) -> list[str]:
    """Return how often each margin is certified by either method, and what it costs where it always is."""
    by_seed = {(point.method, point.dial): {row["key"][3]: row for row in point.every} for point in found}
    lines = []
    for (method, dial), one_shot in by_seed.items():
        rounds = by_seed.get(("primal_dual_raised", dial), {}) if method == "certified" else {}
        if seeds := sorted(one_shot.keys() & rounds.keys()):
            either = [[rows[seed] for seed in seeds] for rows in (one_shot, rounds)]
            lines.append(f"- margin {dial:g}, seeds {seeds_of(either[0])}: {compared(*either)}")
    return ["\n".join(lines)] if lines else []


def compared(one_shot: Sequence[dict[str, Any]], rounds: Sequence[dict[str, Any]]) -> str:
    """Return how often either method is certified on the same seeds, and their minutes if all are."""
    counts = f"certified in {held(one_shot)} in one shot, {held(rounds)} by primal-dual"
    if not all(map(holds, (*one_shot, *rounds))):
        return counts
    minutes = [np.mean([row["compute"]["seconds"] / 60 for row in rows]) for rows in (one_shot, rounds)]
    ratio = minutes[0] / minutes[1]
    return f"{counts}, after {minutes[0]:.1f} min and {minutes[1]:.1f} min: {ratio:.2f}×"


def style(number: int) -> tuple[str, str]:
    """Return the colour and marker of a method by its number: no two of up to 110 are alike."""
    return f"C{number % 10}", "osD^vP*X<>h"[number % 11]


def draw(path: Path, every: dict[str, list[Point]]) -> None:
    """Draw the reward's gain over the constraint's, a panel a pair of scorers, a line a method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(every), 5.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(every), squeeze=False)[0]
    methods = sorted({point.method for found in every.values() for point in found})
    styles = {method: style(number) for number, method in enumerate(methods)}
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
