"""Read tables with a row for each prompt, from lists, numbered columns or arrays."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cann_jax.analysis.columns import is_list, labels, numbers, rounded_off, row_hashes
from cann_jax.analysis.faults import FirstFault, checked_numbers
from cann_jax.analysis.raw_table import RawTable, bad_weights
from cann_jax.analysis.table_layout import Layout
from cann_jax.core.precision import beyond_float32, to_float32

FILL = "fill it in, or leave it out by --drop_missing"


@dataclasses.dataclass(frozen=True)
class WideRows:
    """Rows of prompts before they are checked.

    Attributes:
        number: ``(prompts,)``, the rows' numbers in the file.
        scores: ``(prompts, responses)`` float64 by name, NaN where there is none.
        rest: The same of what float64 leaves out of a score, where it does.
        mask: ``(prompts, responses)`` bool, which tells the responses.
        groups: As in ``RawTable``.
        weights: As in ``RawTable``, NaN where there is none.
        names: ``(prompts,)``, a hash of each prompt's name, 0 where there is none; None: no prompt has one.
    """

    number: np.ndarray
    scores: dict[str, np.ndarray]
    rest: Mapping[str, np.ndarray | None]
    mask: np.ndarray
    groups: dict[str, np.ndarray]
    weights: np.ndarray | None
    names: np.ndarray | None


def read_wide(layout: Layout, table: pa.Table, number: np.ndarray, whole: bool) -> RawTable:
    """Return the scores of a table, or of some rows of it.

    Args:
        layout: Where the table holds what.
        table: Its plain columns.
        number: ``(rows,)``, the rows' numbers in the file.
        whole: Whether these are all of its rows.

    Raises:
        InputError: About the first row that lacks a score or a weight, holds no number where one has to be,
            or has lists of different lengths.
    """
    fault = FirstFault(layout.path, whole)
    weights = None if layout.weights is None else checked_numbers(table, layout.weights, number, fault)
    reward = next(iter(layout.scores))
    if is_list(table.schema.field(layout.scores[reward][0]).type):
        scores, rest, mask = _from_lists(layout, table, number, fault)
    else:
        columns = {
            n: [checked_numbers(table, c, number, fault) for c in own] for n, own in layout.scores.items()
        }
        scores = {name: np.stack(own, axis=-1) for name, own in columns.items()}
        rest = {name: _rest(table, own, columns[name]) for name, own in layout.scores.items()}
        # The one way in which numbered columns can say that a prompt has fewer responses.
        mask = ~np.all([np.isnan(values) for values in scores.values()], axis=0)
    if not layout.drop_missing:
        fault.check(number, np.all(~mask, axis=1), f"has no responses; {FILL}")
    groups = {name: labels(table[name]) for name in layout.groups}
    names = None if layout.prompt is None else row_hashes(table[layout.prompt])
    rows = WideRows(number, scores, rest, mask, groups, weights, names)
    return finish_wide(fault, rows, layout.drop_missing)


def _rest(table: pa.Table, columns: list[str], values: list[np.ndarray]) -> np.ndarray | None:
    """Return what float64 leaves out of numbered columns with these numbers; None where it keeps all."""
    parts = [rounded_off(table[name], own) for name, own in zip(columns, values, strict=True)]
    if all(part is None for part in parts):
        return None
    filled = [np.zeros(len(table)) if part is None else part for part in parts]
    return np.asarray(np.stack(filled, axis=-1))


def finish_wide(fault: FirstFault, rows: WideRows, drop_missing: bool) -> RawTable:
    """Return the checked scores of rows.

    Raises:
        InputError: About the first row at fault; ``fault`` is what was found before.
    """
    number, scores, mask, weights = rows.number, rows.scores, rows.mask, rows.weights
    kept, missing = np.ones(len(mask), bool), np.zeros(mask.shape, bool)
    for values in scores.values():
        missing |= mask & np.isnan(values)
    all_in_all = fault.one_of(int(missing.sum()), "responses that lack a score")
    for name, values in scores.items():
        _check_cells(fault, number, mask & beyond_float32(values), f"holds a {name} that is out of range")
        if not drop_missing:
            _check_cells(fault, number, mask & np.isnan(values), f"has no {name}", f"{all_in_all}; {FILL}")
    if weights is not None:
        fault.check(number, bad_weights(weights), "has a weight that is negative or infinite; fix it")
        kept = ~np.isnan(weights)
    if drop_missing:
        mask = mask & ~missing
        kept = kept & mask.any(axis=1)
    else:
        fault.check(number, ~kept, f"has no weight; {FILL}")
    fault.report()
    mask, absent = mask[kept], np.sum(~kept)
    left_out = {name: None if rest is None else rest[kept] for name, rest in rows.rest.items()}
    rounded = {name: to_float32(values[kept], mask, left_out[name]) for name, values in scores.items()}
    return RawTable(
        scores={name: values for name, (values, _) in rounded.items()},
        precision={name: precision for name, (_, precision) in rounded.items()},
        mask=mask,
        groups={name: values[kept] for name, values in rows.groups.items()},
        weights=None if weights is None else weights[kept],
        names=None if rows.names is None else np.stack([rows.names, number])[:, kept],
        dropped=int(missing[kept].sum() + absent),
    )


def _check_cells(
    fault: FirstFault, number: np.ndarray, wrong: np.ndarray, problem: str, mend: str = "; fix it"
) -> None:
    """Note the first row with a wrong response ``(prompts, responses)``."""
    fault.check(
        number,
        np.asarray(wrong.any(axis=1)),
        lambda row: f"{problem}, for its response {np.argmax(wrong[row]) + 1}{mend}",
    )


def _from_lists(
    layout: Layout, table: pa.Table, number: np.ndarray, fault: FirstFault
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None], np.ndarray]:
    """Return scores, ``rest`` and mask ``(prompts, longest)`` from a list for each prompt."""
    lengths = {name: _lengths(table[name]) for name in layout.scores}
    longest = max(own.max(initial=0) for own in lengths.values())
    scores: dict[str, np.ndarray] = {}
    rest: dict[str, np.ndarray | None] = {}
    for name, own in lengths.items():
        flat = pc.list_flatten(table[name])
        values, wrong = numbers(flat)
        there = np.arange(longest) < own[:, None]
        scores[name], bad = np.full(there.shape, np.nan), np.zeros(there.shape, bool)
        scores[name][there], bad[there] = values, wrong
        left_out = rounded_off(flat, values)
        rest[name] = None if left_out is None else _placed(left_out, there)
        _check_cells(fault, number, bad, f"holds text in {name} that is not a number")
        _check_lengths(fault, number, name, own, *next(iter(lengths.items())))
    every = np.max(list(lengths.values()), axis=0)
    return scores, rest, np.arange(longest) < every[:, None]


def _placed(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    placed = np.zeros(there.shape)
    placed[there] = values
    return placed


def _check_lengths(
    fault: FirstFault, number: np.ndarray, name: str, own: np.ndarray, reward: str, expected: np.ndarray
) -> None:
    """Note a list that is neither as long as the reward's nor missing."""
    fault.check(
        number,
        (own != expected) & (own > 0) & (expected > 0),
        lambda row: f"has {expected[row]} values of {reward} and {own[row]} of {name}; give as many",
    )


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the lists' lengths; 0 where there is no list."""
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), np.int64)
