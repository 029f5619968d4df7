"""The result on the terminal."""

from rich.console import Console
from rich.table import Table

from cann_jax.report.rows import HEADINGS, result_rows, summary_lines


def print_results(results: dict) -> None:
    """The predicted-against-measured table and the lines beside it."""
    console = Console(highlight=False)
    found = results["summary"]
    table = Table(title=f"held-out: {found['prompts']} prompts × {found['responses']} responses", title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in result_rows(results):
        table.add_row(*row)
    console.print(table)
    for line in summary_lines(results):
        console.print(line, markup=False)
