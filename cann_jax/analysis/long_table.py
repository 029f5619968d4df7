"""Read tables with a row for each response."""

import dataclasses

import numpy as np
import pyarrow as pa

from cann_jax.analysis.columns import codes, is_whole, labels, rounded_off
from cann_jax.analysis.faults import FirstFault, checked_numbers
from cann_jax.analysis.raw_table import RawTable, bad_weights
from cann_jax.analysis.table_layout import Layout
from cann_jax.core.precision import beyond_float32, to_float32

FILL = "fill it in, or leave such rows out by --drop_missing"


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Columns of the rows, each ``(rows,)``; prompts and responses are codes, -1 where there is none."""

    number: np.ndarray
    prompt: np.ndarray
    response: np.ndarray | None
    scores: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]  # of scores of which float64 leaves out something
    weights: np.ndarray | None
    groups: dict[str, np.ndarray]

    def lacking(self, layout: Layout) -> dict[str, np.ndarray]:
        """Return which rows lack what, by what a message calls it."""
        found = {"prompt": self.prompt < 0}
        if self.response is not None:
            found["response"] = self.response < 0
        found |= {f"number in column {name}": np.isnan(values) for name, values in self.scores.items()}
        if self.weights is not None:
            found[f"number in column {layout.weights}"] = np.isnan(self.weights)
        return found

    def take(self, kept: np.ndarray) -> "_Rows":
        """Return the rows of a mask."""
        return _Rows(
            number=self.number[kept],
            prompt=self.prompt[kept],
            response=None if self.response is None else self.response[kept],
            scores={name: values[kept] for name, values in self.scores.items()},
            rest={name: values[kept] for name, values in self.rest.items()},
            weights=None if self.weights is None else self.weights[kept],
            groups={name: values[kept] for name, values in self.groups.items()},
        )


def read_long(layout: Layout, table: pa.Table, number: np.ndarray, whole: bool) -> RawTable:
    """Return the scores of a table, or of whole prompts of it, prompts as they first appear.

    Args:
        layout: Where the table holds what.
        table: Its plain columns.
        number: ``(rows,)``, the rows' numbers in the file.
        whole: Whether these are all of its rows.

    Raises:
        InputError: About the first row that lacks something, holds no number where one has to be, has
            another group or weight than its prompt's first row, or repeats a numbered response.
    """
    fault = FirstFault(layout.path, whole)
    rows = _rows_of(layout, table, number, fault)
    lacking = rows.lacking(layout)
    missing = np.any(list(lacking.values()), axis=0)
    if layout.drop_missing:
        rows = rows.take(~missing)
    else:
        all_in_all = fault.one_of(int(missing.sum()), "rows that lack something")
        for what, there in lacking.items():
            fault.check(number, there, f"has no {what}{all_in_all}; {FILL}")
    prompt = np.unique(rows.prompt, return_inverse=True)[1]
    place, counts = _places(prompt)
    first = np.zeros(len(counts), np.int64)
    first[prompt[place == 0]] = np.flatnonzero(place == 0)
    _check_shared(layout, rows, first[prompt], fault)
    repeated = _repeats(rows)
    if layout.response is not None and is_whole(table.schema.field(layout.response).type):
        what = f"has a {layout.response} that an earlier row of its {layout.prompt} has"
        fault.check(rows.number, repeated, f"{what}; drop one, or number them apart")
    fault.report()
    mask = np.arange(counts.max(initial=0)) < counts[:, None]

    def cells(values: np.ndarray) -> np.ndarray:
        return _placed(values, prompt, place, mask.shape)

    rest = {name: cells(values) for name, values in rows.rest.items()}
    placed = {name: to_float32(cells(v), mask, rest.get(name)) for name, v in rows.scores.items()}
    return RawTable(
        scores={name: values for name, (values, _) in placed.items()},
        precision={name: precision for name, (_, precision) in placed.items()},
        mask=mask,
        groups={name: values[first] for name, values in rows.groups.items()},
        weights=None if rows.weights is None else rows.weights[first],
        rows=(prompt, place),
        dropped=int(missing.sum()) if layout.drop_missing else 0,
        repeated=int(repeated.sum()),
    )


def _rows_of(layout: Layout, table: pa.Table, number: np.ndarray, fault: FirstFault) -> _Rows:
    weights = None
    if layout.weights is not None:
        weights = checked_numbers(table, layout.weights, number, fault)
        _check_values(layout.weights, weights, bad_weights(weights), number, fault)
    scores = {name: checked_numbers(table, name, number, fault) for name in layout.scores}
    for name, values in scores.items():
        _check_values(name, values, beyond_float32(values), number, fault)
    rest = {name: rounded_off(table[name], values) for name, values in scores.items()}
    return _Rows(
        number=number,
        prompt=codes(table[layout.prompt])[0],
        response=None if layout.response is None else codes(table[layout.response])[0],
        scores=scores,
        rest={name: own for name, own in rest.items() if own is not None},
        weights=weights,
        groups={name: labels(table[name]) for name in layout.groups},
    )


def _check_values(
    name: str, values: np.ndarray, wrong: np.ndarray, number: np.ndarray, fault: FirstFault
) -> None:
    fault.check(
        number, wrong, lambda row: f"holds {values[row]:g} in column {name}, which is out of range; fix it"
    )


def _check_shared(layout: Layout, rows: _Rows, first: np.ndarray, fault: FirstFault) -> None:
    """Note a row whose group or weight is not that of its prompt's ``first`` row ``(rows,)``."""
    shared = dict(rows.groups) | ({} if rows.weights is None else {str(layout.weights): rows.weights})
    for name, values in shared.items():
        _check_one(layout, name, values, rows.number, first, fault)


def _check_one(
    layout: Layout, name: str, values: np.ndarray, number: np.ndarray, first: np.ndarray, fault: FirstFault
) -> None:
    def problem(row: int) -> str:
        other = f"{fault.place(number[first[row]])} of the same {layout.prompt} has {values[first[row]]}"
        return f"has {name} {values[row]}, but {other}; give each {layout.prompt} one"

    fault.check(number, np.asarray(values != values[first], bool), problem)


def _repeats(rows: _Rows) -> np.ndarray:
    """Return which rows have a response that an earlier row of their prompt has."""
    if rows.response is None or not len(rows.response):
        return np.zeros(len(rows.prompt), bool)
    pair = rows.prompt * (int(rows.response.max()) + 2) + rows.response
    again = np.ones(len(pair), bool)
    again[np.unique(pair, return_index=True)[1]] = False
    return again


def _places(prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's index among its prompt's rows, in file order, and the number of rows per prompt."""
    counts = np.bincount(prompt)
    order = np.argsort(prompt, kind="stable")
    place = np.empty(len(prompt), np.int64)
    place[order] = np.arange(len(prompt)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, counts


def _placed(values: np.ndarray, prompt: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    placed = np.full(shape, np.nan)
    placed[prompt, place] = values
    return placed
