"""The result of a run in words and text cells, for the terminal and the report alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cann_jax.files.console import console

HEADINGS = ("score", "asked", "predicted", "measured", "interval", "before → after")

Results = Mapping[str, Any]


def print_results(results: Results) -> None:
    """Print the table of predicted and measured improvements, the lines beside it, and the verdict last."""
    out, found = console(), results["summary"]
    title = f"held-out: {found['prompts']} prompts × {found['responses']} responses"
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in result_rows(results):
        table.add_row(*row)
    out.print(table)
    for line in (*summary_lines(results), *bound_lines(results), *verdict_lines(results)):
        out.print(line, soft_wrap=True)


def result_rows(results: Results) -> list[tuple[str, ...]]:
    """Return one row a constraint, then the reward, then what was only measured."""
    rows = [_cells(name, row) for name, row in (*_constraints(results), ("reward", results["reward"]))]
    return rows + [_cells(name, row, " (measured only)") for name, row in results["also"].items()]


def _constraints(results: Results) -> list[tuple[str, Results]]:
    return [(name, row) for name, row in results.items() if name not in ("summary", "also", "reward")]


def _cells(name: str, row: Results, remark: str = "") -> tuple[str, ...]:
    predicted, spread = _number(row.get("predicted")), row.get("predicted_interval")
    return (
        row.get("label", name) + remark,
        _number(row.get("asked")),
        predicted if spread is None else f"{predicted} {_interval(spread)}",
        _number(row["measured"]),
        "–" if row["interval"] is None else _interval(row["interval"]),
        "–" if row["before"] is None else f"{row['before']:.3f} → {row['after']:.3f}",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _interval(interval: Sequence[float]) -> str:
    return f"[{_number(interval[0])}, {_number(interval[1])}]"


def summary_lines(results: Results) -> list[str]:
    """Return the numbers beside the table, one sentence each."""
    found = results["summary"]
    tokens, stopped, fluency = (
        found[key] for key in ("response_tokens", "stopped", "reference_logp_per_token")
    )
    multipliers = ", ".join(f"{name} {value:.4g}" for name, value in found["multipliers"].items())
    # What was evaluated before there were weighted sums has no weight.
    weight = found.get("reward_weight", 1.0)
    summed = "" if weight == 1 else f", weight of the reward {weight:g}"
    predicted = "no forecast" if found["kl_predicted"] is None else f"predicted {found['kl_predicted']:.3f}"
    return [
        f"λ: {multipliers}{summed} (β = {found['beta']:g}); scale of the trained step: {found['scale']:.3f}",
        f"KL to the reference: {found['kl']:.3f} nats a response ({predicted} at scale 1)",
        f"response length: {tokens[0]:.1f} → {tokens[1]:.1f} tokens; "
        f"ended with an end token {stopped[0]:.0%} → {stopped[1]:.0%}",
        f"log-prob a token under the reference: {fluency[0]:.3f} → {fluency[1]:.3f} nats",
        *_compute_line(found.get("compute")),
    ]


def _compute_line(found: Results | None) -> list[str]:
    if found is None or found["seconds"] is None:  # a stage of an earlier version has counted nothing
        return []
    return [
        f"compute of all stages: {found['policy_rounds']} trainings of a policy "
        f"({found['training_flops']:.3g} FLOPs), {found['generated_tokens']:,} tokens generated, "
        f"{found['seconds']:.0f} s"
    ]


def verdict_lines(results: Results) -> list[str]:
    """Return a verdict on each constraint ("relevance: HOLDS. Asked …"), and one on all of several."""
    constraints, found = _constraints(results), results["summary"]
    lines = [_verdict(name, row) for name, row in constraints]
    if len(constraints) > 1:
        lines.append(f"all constraints together, at {found['confidence']:.0%}: {found['verdict'].upper()}")
    return lines


def bound_lines(results: Results) -> list[str]:
    """Return what each verdict rests on: the certificate's bounds, and the prompts that would decide."""
    return [
        f"certificate of {row.get('label', name)}: {_bounds(row['certificate'])}"
        for name, row in _constraints(results)
        if row["certificate"] is not None
    ]


def _verdict(name: str, row: Results) -> str:
    label, certificate = row.get("label", name), row["certificate"]
    if certificate is None:
        return f"{label}: NOT MEASURED, since its scores exist for the training samples only"
    return (
        f"{label}: {certificate['verdict'].upper()}. Asked {_number(row['asked'])}, measured "
        f"{_number(row['measured'])} {_interval(row['interval'])} on {certificate['prompts']} unseen prompts"
    )


def _bounds(certificate: Results) -> str:
    lower, upper = (
        "none" if certificate[end] is None else _number(certificate[end]) for end in ("lower", "upper")
    )
    line = f"lower bound {lower}, upper bound {upper}, for {_number(certificate['bound'])}"
    if certificate["verdict"] != "undecided":
        return line
    needed = certificate["prompts_needed"]
    count = "no number of prompts" if needed is None else f"about {needed} prompts"
    return f"{line}; {count} would decide at this estimate"
