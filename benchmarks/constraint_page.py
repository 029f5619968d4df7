"""The page and the picture of ``constraint.py``."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAME = "relevance"
Row = dict[str, Any]  # of constraint.jsonl


def page(every: Sequence[Row], variants: Mapping[str, Sequence[str]], title: str, beta: float) -> str:
    """Return the page of the rows, with a section for each variant, by its flags, and draw."""
    kinds = list(dict.fromkeys(map(drawn, every)))
    parts = ["# Asked against measured", title, "Made by `python benchmarks/constraint.py`."]
    if every:
        parts.append(f"Machine: {'; '.join(sorted({row['machine'] for row in every}))}. Intervals: 95 %.")
        parts += [DRAWS, "## One thing changed at a time", PAIRED]
        parts.append(table(DIFFERENCES, differences(every, beta)))
    for variant, kind in itertools.product(variants, kinds):
        own = sorted(
            (row for row in every if row["key"][0] == variant and drawn(row) == kind),
            key=lambda row: row["key"][1:],
        )
        if own:
            parts += [
                f"## {variant}, draw {kind}",
                f"`{' '.join((*AIM, *variants[variant]))}`",
                table(HEADINGS, map(cells, own)),
                *summary(own),
            ]
    return "\n\n".join(parts) + "\n"


def drawn(row: Row) -> str:
    """Return what rows must have in common to be compared in pairs."""
    return f"{row['draw']}, {row['calibration']}" if "calibration" in row else str(row["draw"])


AIM = ("--calibrate.aim", "margin")  # of every run; the last value of a key counts
# The folder of the first draw was lost with its machine, before rows had a hash.
DRAWS = (
    "Every row names the draw of samples and scores that it is of, by a hash of the responses; those of the "
    "first are not kept, and earlier code drew them. The other was drawn twice, on two days; `pairs` at seed "
    "1, run on both, gave the same numbers to the last digit. Rows *by log-probs* have the calibration's "
    "estimate of a gain by `cann_jax/core/improvement.py`; at +0.20 they are the trainings of other rows, "
    "calibrated and evaluated again. A row that was interrupted has the seconds of its last start. "
    "*certified* aims as the quickstart does, there by `calibrate.power` .98, in the first draw by .9. "
    "Rows *by log-probs* at +0.10, +0.15 and +0.25 ran on a Zen 3, which has AVX2 alone, the others of that "
    "draw on a Zen 4; both draw the same responses of the reference. Their measurements are not independent: "
    "the runs of a seed share the reference's draws, and all share 256 calibration and 576 held-out prompts, "
    "whose own gains differ by about 0.1. So the mean of five seeds has a standard error of about a tenth "
    "at +0.10, half of its square by draws and half by prompts: it is within a tenth of what was asked two "
    "times in three, and four times the prompts would halve that."
)
PAIRED = (
    "A variant less the base of the same draw, margin and seed: mean ± standard error over the seeds. Both "
    "share the reference's draws; one seed tells nothing of the spread. The objective is reward − β·KL, what "
    "the method maximizes at the constraint."
)
DIFFERENCES = ("variant", "draw", "asked", "seeds", "measured", "reward", "KL", "objective", "scale")


def differences(every: Sequence[Row], beta: float) -> list[list[str]]:
    """Return the rows of the table of ``PAIRED``."""
    by_key = {(drawn(row), *row["key"]): dict(row) for row in every if "refused" not in row}
    for row in by_key.values():
        row["objective"] = row["reward"] - beta * row["kl"]
    found: dict[tuple[str, str, float], list[tuple[Row, Row]]] = {}
    for (draw, variant, margin, seed), row in by_key.items():
        base = by_key.get((draw, "base", margin, seed))
        if variant != "base" and base is not None:
            found.setdefault((variant, draw, margin), []).append((row, base))
    return [
        [variant, draw, f"{margin:+.2f}", str(len(pairs))]
        + [
            change([row[name] - base[name] for row, base in pairs])
            for name in ("measured", "reward", "kl", "objective", "scale")
        ]
        for (variant, draw, margin), pairs in found.items()
    ]


def change(values: Sequence[float]) -> str:
    """Return the mean of differences, with its standard error where there are several."""
    mean = f"{np.mean(values):+.3f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


HEADINGS = (
    "asked", "seed", "λ", "forecast", "measured", "verdict", "scale", "KL", "reward", "within", "agrees", "s"
)  # fmt: skip


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of numbers."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---:|" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cells(row: Row) -> list[str]:
    _, margin, seed = row["key"]
    if "refused" in row:
        return [
            f"{margin:+.2f}",
            str(seed),
            "–",
            "–",
            "refused before training",
            *["–"] * 6,
            str(row["seconds"]),
        ]
    return [
        f"{margin:+.2f}",
        str(seed),
        f"{row['multiplier']:.2f}",
        "–" if row["predicted"] is None else f"{row['predicted']:+.3f} {span(row['predicted_interval'])}",
        f"{row['measured']:+.3f} {span(row['interval'])}",
        row["verdict"],
        f"{row['scale']:.2f}",
        f"{row['kl']:.2f}",
        f"{row['reward']:+.2f} {span(row['reward_interval'], 2)}",
        "yes" if within(row) else "no",
        "yes" if agrees(row) else "no",
        str(row["seconds"]),
    ]


def span(interval: Sequence[float], digits: int = 3) -> str:
    return f"[{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def within(row: Row) -> bool:
    """Whether the measured interval contains the margin, or lies above it by at most a quarter of it."""
    margin, (low, high) = row["key"][1], row["interval"]
    return bool(high >= margin and low <= 1.25 * margin)


def agrees(row: Row) -> bool:
    """Whether the 95 % interval of the difference of forecast and measurement contains 0."""
    if row["predicted"] is None:
        return False
    halves = [(high - low) / 2 for low, high in (row["interval"], row["predicted_interval"])]
    return bool(abs(row["measured"] - row["predicted"]) <= np.hypot(*halves))


def summary(own: Sequence[Row]) -> list[str]:
    """Return what the targets ask of one variant."""
    done = [row for row in own if "refused" not in row]
    if not done:
        return []
    lines = [
        f"- within (the interval contains the margin, or lies above it by at most a quarter of it): "
        f"{sum(map(within, done))} of {len(done)}",
        f"- forecast agrees with the measurement: {sum(map(agrees, done))} of {len(done)}",
    ]
    for margin in sorted({row["key"][1] for row in done}):
        found = [row for row in done if row["key"][1] == margin]
        values = np.array([row["measured"] for row in found])
        gain = np.array([row["reward"] for row in found])
        lines.append(
            f"- asked {margin:+.2f}: mean of {len(found)} seed{'s' * (len(found) > 1)} {values.mean():+.3f} "
            f"({values.mean() / margin - 1:+.0%}), reward {gain.mean():+.2f}, "
            f"KL {np.mean([row['kl'] for row in found]):.2f}"
        )
    return ["\n".join(lines)]


def beside(row: Row, kinds: Sequence[str]) -> float:
    """Return by how much a run's mark lies beside its margin."""
    return 0.0075 * (kinds.index(drawn(row)) - (len(kinds) - 1) / 2) + 0.0013 * (row["key"][2] - 2)


# Colours that the colour-blind tell apart.
MARKS = {"holds": ("#0072B2", "o"), "undecided": ("#999999", "s"), "fails": ("#D55E00", "X")}


def draw(path: Path, every: Sequence[Row], variants: Sequence[str]) -> None:
    """Draw measured against asked, a panel a variant: one mark a run, by its verdict, and the diagonal.

    The runs of one margin stand side by side, by draw and seed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not variants:
        return
    figure = Figure(figsize=(max(3.6 * len(variants) + 0.8, 6), 4.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(variants), squeeze=False, sharey=True)[0]
    kinds = list(dict.fromkeys(map(drawn, every)))
    for axis, variant in zip(axes, variants, strict=True):
        for verdict, (colour, marker) in MARKS.items():
            own = [row for row in every if row["key"][0] == variant and row.get("verdict") == verdict]
            x = np.array([row["key"][1] + beside(row, kinds) for row in own])
            y = np.array([row["measured"] for row in own])
            ends = np.array([row["interval"] for row in own]).reshape(-1, 2).T
            axis.errorbar(
                x, y, yerr=abs(ends - y), color=colour, marker=marker, linestyle="", elinewidth=1,
                markersize=5, label=verdict,
            )  # fmt: skip
        axis.plot([0.05, 0.3], [0.05, 0.3], color="0.4", linestyle=":")
        axis.set(xlabel=f"margin of {NAME} asked", xlim=(0.07, 0.28), ylim=(0, 0.36))
        if len(variants) > 1:
            axis.set_title(variant)
    axes[0].set_ylabel("measured on unseen prompts, 95 %")
    axes[0].legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=110, bbox_inches="tight")
