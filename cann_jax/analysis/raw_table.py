"""Scores as arrays, as a table holds them: what every way of reading a table returns."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from cann_jax.analysis.faults import FirstFault
from cann_jax.core.precision import check_precision
from cann_jax.files.errors import InputError


@dataclasses.dataclass(frozen=True)
class RawTable:
    """Scores of whole prompts, before any constraint is chosen; larger is better in all of them.

    Attributes:
        scores: ``(prompts, responses)`` float32 by name, the reward's first; NaN where there is no response.
        mask: ``(prompts, responses)`` bool; False where there is no response.
        groups: ``(prompts,)`` by column: texts, None for a prompt without a group, or booleans.
        weights: ``(prompts,)`` float64; None: all prompts weigh the same.
        rows: The prompt and the response of each row of a long table, each ``(rows,)``; None for others.
        features: The columns, or the array, that ``--features`` names, as the file holds them.
        precision: ``(2,)`` by score: how far float32 rounds a value, and how far values of a prompt differ,
            both at most; see ``check_precision``.
        dropped: Rows, responses or prompts that were left out because they lack something.
        repeated: Responses whose text another response of the prompt has.
        names: ``(2, prompts)`` of a table with a row for each prompt: a hash of each prompt's name, 0 where
            there is none, and its row's number; None: prompts have no names, or rows are joined by them.
        counter: The column that was taken for a count of the rows, and for no score; None: there is none.
    """

    scores: dict[str, np.ndarray]
    mask: np.ndarray
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None
    rows: tuple[np.ndarray, np.ndarray] | None = None
    features: pa.Table | np.ndarray | None = None
    precision: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    repeated: int = 0
    names: np.ndarray | None = None
    counter: str | None = None


def joined(parts: list[RawTable]) -> RawTable:
    """Return the table of all parts, whose arrays are let go one after the other; ``rows`` are left out."""
    shape = sum(len(part.mask) for part in parts), max(part.mask.shape[1] for part in parts)
    first = parts[0]
    scores = {n: _filled(shape, np.nan, [part.scores.pop(n) for part in parts]) for n in list(first.scores)}
    weights = [part.weights for part in parts if part.weights is not None]
    return RawTable(
        scores=scores,
        precision={n: np.max([part.precision[n] for part in parts], axis=0) for n in first.precision},
        mask=_filled(shape, False, [part.mask for part in parts]),
        groups={n: np.concatenate([part.groups[n] for part in parts]) for n in first.groups},
        weights=np.concatenate(weights) if weights else None,
        names=all_names(part.names for part in parts),
        dropped=sum(part.dropped for part in parts),
        repeated=sum(part.repeated for part in parts),
    )


def all_names(parts: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """Return the ``names`` of all parts."""
    found = [names for names in parts if names is not None]
    return np.concatenate(found, axis=1) if found else None


def _filled(shape: tuple[int, int], empty: float | bool, values: list[np.ndarray]) -> np.ndarray:
    """Return arrays ``(prompts, responses)`` one below the other, as wide as the widest."""
    whole, first = np.full(shape, empty, values[0].dtype), 0
    for own in values:
        whole[first : first + len(own), : own.shape[1]] = own
        first += len(own)
    return whole


def bad_weights(weights: np.ndarray) -> np.ndarray:
    """Return where weights are negative or infinite; NaN is missing."""
    return np.asarray((weights < 0) | np.isinf(weights))


def larger_is_better(table: RawTable, cost: Iterable[str]) -> RawTable:
    """Return the table with the sign of costs changed."""
    turned = {name: -table.scores[name] for name in cost if name in table.scores}
    return dataclasses.replace(table, scores=table.scores | turned)


def check_whole(
    path: str, some: bool | np.bool_, precision: dict[str, np.ndarray], names: np.ndarray | None
) -> None:
    """Check what can only be said of a whole table: it has ``some`` responses, and enough precision.

    Raises:
        InputError: It has none, or all of its rows were dropped; float32 cannot hold its scores; or two rows
            with all responses to a prompt have one prompt.
    """
    if not some:
        raise InputError(f"{path}: the table has no rows with a prompt and all of its scores; write some")
    check_precision(precision, f"{path}: ")
    if names is not None:
        _check_once(path, *names[:, names[0] != 0])


def _check_once(path: str, names: np.ndarray, number: np.ndarray) -> None:
    """Check that no two rows have one name: counted as two prompts, they made intervals too narrow."""
    if len(np.unique(names)) == len(names):
        return
    _, firsts, which = np.unique(names, return_index=True, return_inverse=True)
    again = np.arange(len(names)) != firsts[which]
    row, place = int(np.argmax(again)), FirstFault(path).place
    earlier = place(int(number[firsts[which[row]]]))
    raise InputError(
        f"{path}: {place(int(number[row]))} has the prompt of {earlier} ({again.sum():,} rows repeat one); "
        "write a row for each response, or drop the repeats"
    )
