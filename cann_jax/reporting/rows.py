"""The table of predicted and measured improvements as text cells, for the terminal and the report alike."""

from typing import Any

HEADINGS = ("score", "asked", "predicted", "measured", "interval", "before → after")


def result_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row a constraint, then the reward, then what was only measured."""
    named = [(name, row) for name, row in results.items() if name not in ("summary", "also", "reward")]
    rows = [(*item, "constraint") for item in named] + [("reward", results["reward"], "reward")]
    rows += [(name, row, "measured only") for name, row in results["also"].items()]
    return [_cells(row.get("label", name), row, kind) for name, row, kind in rows]


def _cells(name: str, row: dict[str, Any], kind: str) -> tuple[str, ...]:
    interval = row["interval"]
    return (
        name if kind != "measured only" else f"{name} (measured only)",
        number(row.get("asked")),
        number(row.get("predicted")),
        number(row["measured"]),
        "–" if interval is None else f"[{number(interval[0])}, {number(interval[1])}]",
        "–" if row["before"] is None else f"{row['before']:.3f} → {row['after']:.3f}",
    )


def number(value: float | None) -> str:
    """Return a signed number, or a dash for None."""
    return "–" if value is None else f"{value:+.3f}"


def summary_lines(results: dict[str, Any]) -> list[str]:
    """Return the numbers beside the table, one sentence each."""
    found = results["summary"]
    tokens, stopped, fluency = (
        found[key] for key in ("response_tokens", "stopped", "reference_logp_per_token")
    )
    multipliers = ", ".join(f"{name} {value:.4g}" for name, value in found["multipliers"].items())
    lines = [
        f"λ*: {multipliers} (β = {found['beta']:g})",
        f"KL to the reference: {found['kl']:.3f} nats a response (predicted {found['predicted_kl']:.3f})",
        f"response length: {tokens[0]:.1f} → {tokens[1]:.1f} tokens; "
        f"ended with an end token {stopped[0]:.0%} → {stopped[1]:.0%}",
        f"log-prob a token under the reference: {fluency[0]:.3f} → {fluency[1]:.3f} nats",
    ]
    return lines + [
        verdict(name, row) for name, row in results.items() if name not in ("summary", "also", "reward")
    ]


def verdict(name: str, row: dict[str, Any]) -> str:
    """Return one plain sentence on a constraint."""
    if row["measured"] is None:
        return f"{name}: not measured, since its scores exist for the training samples only"
    share = row["measured"] / row["asked"] if row["asked"] else float("nan")
    low, _ = row["interval"]
    if low >= row["asked"]:
        met = "the margin holds with confidence"
    elif row["measured"] >= row["asked"]:
        met = "the margin is reached, the interval includes less"
    elif low > 0:
        met = f"improved, {share:.0%} of the margin reached"
    else:
        met = "no improvement that the interval can tell from none"
    return f"{name}: {met}"
