"""The result of a run in words and text cells, for the terminal and the report alike."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cann_jax.files.console import console

HEADINGS = ("score", "asked", "predicted", "measured", "interval", "before → after")

Results = Mapping[str, Any]


def print_results(results: Results) -> None:
    """Print the table of predicted and measured improvements and the lines beside it."""
    out, found = console(), results["summary"]
    title = f"held-out: {found['prompts']} prompts × {found['responses']} responses"
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in result_rows(results):
        table.add_row(*row)
    out.print(table)
    for line in summary_lines(results):
        out.print(line, markup=False)


def result_rows(results: Results) -> list[tuple[str, ...]]:
    """Return one row a constraint, then the reward, then what was only measured."""
    rows = [_cells(name, row) for name, row in (*_constraints(results), ("reward", results["reward"]))]
    return rows + [_cells(name, row, " (measured only)") for name, row in results["also"].items()]


def _constraints(results: Results) -> list[tuple[str, Results]]:
    return [(name, row) for name, row in results.items() if name not in ("summary", "also", "reward")]


def _cells(name: str, row: Results, remark: str = "") -> tuple[str, ...]:
    interval = row["interval"]
    return (
        row.get("label", name) + remark,
        _number(row.get("asked")),
        _number(row.get("predicted")),
        _number(row["measured"]),
        "–" if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]",
        "–" if row["before"] is None else f"{row['before']:.3f} → {row['after']:.3f}",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def summary_lines(results: Results) -> list[str]:
    """Return the numbers beside the table and a verdict on each constraint, one sentence each."""
    found = results["summary"]
    tokens, stopped, fluency = (
        found[key] for key in ("response_tokens", "stopped", "reference_logp_per_token")
    )
    multipliers = ", ".join(f"{name} {value:.4g}" for name, value in found["multipliers"].items())
    return [
        f"λ*: {multipliers} (β = {found['beta']:g})",
        f"KL to the reference: {found['kl']:.3f} nats a response (predicted {found['predicted_kl']:.3f})",
        f"response length: {tokens[0]:.1f} → {tokens[1]:.1f} tokens; "
        f"ended with an end token {stopped[0]:.0%} → {stopped[1]:.0%}",
        f"log-prob a token under the reference: {fluency[0]:.3f} → {fluency[1]:.3f} nats",
        *(f"{name}: {_verdict(row)}" for name, row in _constraints(results)),
    ]


def _verdict(row: Results) -> str:
    if row["measured"] is None:
        return "not measured, since its scores exist for the training samples only"
    if row["interval"][0] >= row["asked"]:
        return "the margin holds with confidence"
    if row["measured"] >= row["asked"]:
        return "the margin is reached, the interval includes less"
    if row["interval"][0] > 0:
        share = row["measured"] / row["asked"] if row["asked"] else float("nan")
        return f"improved, {share:.0%} of the margin reached"
    return "no improvement that the interval can tell from none"
