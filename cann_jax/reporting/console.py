"""The result on the terminal."""

from typing import Any

from rich.table import Table

from cann_jax.files.console import console
from cann_jax.reporting.rows import HEADINGS, result_rows, summary_lines


def print_results(results: dict[str, Any]) -> None:
    """Print the table of predicted and measured improvements and the lines beside it."""
    out = console()
    found = results["summary"]
    table = Table(
        title=f"held-out: {found['prompts']} prompts × {found['responses']} responses", title_justify="left"
    )
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in result_rows(results):
        table.add_row(*row)
    out.print(table)
    for line in summary_lines(results):
        out.print(line, markup=False)
