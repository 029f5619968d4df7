"""The first row of a table that is at fault, as a person finds it: by its line where the file is text."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from cann_jax.analysis.columns import numbers
from cann_jax.analysis.formats import lines_of
from cann_jax.files.errors import InputError

DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+\s*")


class FirstFault:
    """The first row of a table that is at fault; both ways of reading a table thus report the same one."""

    def __init__(self, path: str, whole: bool = False) -> None:
        """Note nothing yet; ``whole``: all rows of the table are looked at, so that counts are its own."""
        self.path, self.whole, self.number, self.problem = path, whole, -1, ""
        self._lines: list[int] | None = None

    def check(self, rows: np.ndarray, wrong: np.ndarray, problem: str | Callable[[int], str]) -> None:
        """Note the first row that is ``wrong`` ``(rows,)``, if it precedes what was noted before.

        Args:
            rows: ``(rows,)``, the rows' numbers in the file, increasing.
            wrong: ``(rows,)`` bool.
            problem: What is wrong with the row, and how to mend it; or a function of its index that says it.
        """
        if not wrong.any():
            return
        index = int(np.argmax(wrong))
        if not self.problem or rows[index] < self.number:
            self.number = int(rows[index])
            self.problem = problem if isinstance(problem, str) else problem(index)

    def one_of(self, count: int, what: str) -> str:
        """Return how many there are of ``what``, to put behind the first; empty where there is but one."""
        return f", one of {count:,} {what}" if self.whole and count > 1 else ""

    def place(self, number: int) -> str:
        """Return how a message calls a row: by the line that an editor shows, or by its number from 1 on."""
        if self._lines is None:
            self._lines = lines_of(self.path)
        return f"line {self._lines[number - 1]}" if number <= len(self._lines) else f"row {number}"

    def report(self) -> None:
        """Raise an InputError about the fault, if there is one."""
        if self.problem:
            raise InputError(f"{self.path}: {self.place(self.number)} {self.problem}")


def checked_numbers(table: pa.Table, name: str, number: np.ndarray, fault: FirstFault) -> np.ndarray:
    """Return the numbers of a plain column as ``numbers`` does; text that spells none is a fault."""
    values, wrong = numbers(table[name])

    def problem(row: int) -> str:
        text = table[name][row].as_py()
        if DECIMAL_COMMA.fullmatch(text):
            mend = f"with a decimal comma; write {text.strip().replace(',', '.')}, or export with points"
        else:
            mend = "not a number; fix it"
        return f"holds {text!r} in column {name}, {mend}"

    fault.check(number, wrong, problem)
    return values
