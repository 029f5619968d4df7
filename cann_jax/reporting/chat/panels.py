"""Two answers as a table: side by side where the terminal is wide enough, else one below the other."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cann_jax.files.console import printable
from cann_jax.files.numbers import decimals
from cann_jax.reporting.chat.policies import Answer
from cann_jax.run.outputs import ALIGNED, REFERENCE

WIDE = 80  # columns from which two answers stand side by side; 36 characters of each fit in a line then


def print_answers(out: Console, answers: Mapping[str, Answer]) -> None:
    """Print the reference's and the aligned model's answer, with what is known of each."""
    before, after = answers[REFERENCE], answers[ALIGNED]
    columns = {
        "reference": (printable(before.text), _facts(before)),
        "aligned": (printable(after.text), _facts(after, before)),
    }
    side_by_side = out.width >= WIDE
    for names in [list(columns)] if side_by_side else [[name] for name in columns]:
        table = Table(expand=True, show_lines=True, header_style="bold")
        for name in names:
            table.add_column(name, ratio=1, overflow="fold")
        for cells in zip(*(columns[name] for name in names), strict=True):
            table.add_row(*map(Text, cells))
        out.print(table)


def _facts(answer: Answer, before: Answer | None = None) -> str:
    """Return the scores, with their change, and the length, a line each."""
    width = max(map(len, answer.scores), default=0)
    lines = [
        f"{name:{width}}  {value:z.{digits}f}" + ("" if before is None else f" ({change:+z.{digits}f})")
        for name, value in answer.scores.items()
        for change in [0.0 if before is None else value - before.scores[name]]
        for digits in [decimals(value, change)]
    ]
    lines.append(f"{answer.tokens} tokens" + ("" if answer.stopped else ", cut off at the limit"))
    if answer.truncated:
        lines.append("prompt too long, cut on the left")
    return "\n".join(lines)
