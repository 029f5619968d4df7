"""The figures of compiled programs as a table and as sentences."""

from collections.abc import Sequence
from typing import Any

from cann_jax_tools.chips import Slice
from rich.table import Table


def figures_table(figures: Sequence[dict[str, Any]], where: Slice) -> Table:
    """Return a table with one row for each program; all figures are those of one device and one step."""
    table = Table(title="per device and step", title_justify="left")
    peak = f"peak of {where.chip.memory / 1e9:.0f} GB"
    headings = ("program", "args GB", "temp GB", peak, "TFLOP", "GB moved", "GB received", "s at least")
    for heading in (*headings, "bound by", "MFU at most"):
        table.add_column(heading, justify="left" if heading in ("program", "bound by") else "right")
    for row in figures:
        table.add_row(*_cells(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    moved = row["moved"]
    gigabytes = (*(row[name] for name in ("arguments", "temporaries", "peak")), row["flops"] / 1e3)
    numbers = [each / 1e9 for each in (*gigabytes, moved["memory"], sum(moved["received"].values()))]
    share = f"{row['mfu_bound']:.0%}" if "mfu_bound" in row else ""
    return [row["program"], *(f"{n:.2f}" for n in numbers), f"{row['seconds']:.3f}", row["bound"], share]


def sentence(figures: dict[str, Any]) -> str:
    """Return how long a program took to compile, and the collectives in it."""
    took = f"{figures['compile_seconds']:.0f} s ({figures['cpu_seconds']:.0f} s of CPU)"
    compiled = "compiled" if figures["machine_code"] else "laid out"
    collectives = collectives_text(figures["moved"]) or "no collective"
    return f"{figures['program']}: {compiled} in {took}; {collectives}"


def collectives_text(moved: dict[str, Any]) -> str:
    """Return how often each kind of collective runs and how much it receives, ``64 all-gather 1.50 GB``."""
    received = moved["received"]
    return ", ".join(f"{n:,.0f} {kind} {received[kind] / 1e9:.2f} GB" for kind, n in moved["count"].items())
