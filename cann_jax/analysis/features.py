"""Features of responses, such as embeddings, from a score table's own columns or an .npy file."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cann_jax.analysis.columns import is_list, is_numeric, plain_type
from cann_jax.analysis.formats import BROKEN
from cann_jax.analysis.raw_table import RawTable
from cann_jax.files.errors import InputError


def read_features(path: str, name: str, table: RawTable) -> np.ndarray:
    """Return features ``(prompts, responses, F)`` of a table's responses; float32, 0 where there is none.

    Args:
        path: The table's file, for messages.
        name: Name of a column, or an .npy file: ``(rows, F)``, a row for each response in the table's order,
            or ``(prompts, responses, F)``, prompts in the order in which they first appear.
        table: The table, with that column apart.

    Raises:
        InputError: The file is missing or unreadable; its shape does not fit the scores; the lists have
            different lengths or do not hold numbers; or features are missing, NaN or infinite.
    """
    if isinstance(table.features, pa.Table):
        where = f"{path}: column {name}"
        given = _from_columns(where, table.features.columns, table)
    elif table.features is not None:
        where, given = f"{path}: array {name}", table.features
    else:
        where, given = f"--features {name}", _load(name)
    if given.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {given.dtype}, not numbers; give numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
        values = _placed(where, given.astype(np.float32, copy=False), table)
    bad = ~np.isfinite(values).all(-1)
    if bad.any():
        first = _name_of(table, int(np.argmax(bad[_order(table)])))
        raise InputError(
            f"{where}: features of {bad.sum()} responses are missing, NaN or infinite (first: {first}); "
            "fix or drop them"
        )
    return values


def _load(name: str) -> np.ndarray:
    if not Path(name).is_file():
        raise InputError(f"--features {name}: no such file; give an .npy file or a column of the table")
    try:
        return np.lib.format.open_memmap(name, mode="r")
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"--features {name}: not a readable .npy file ({reason})") from error


def _placed(where: str, values: np.ndarray, table: RawTable) -> np.ndarray:
    """Return ``(prompts, responses, F)``, 0 for missing responses, from that shape or ``(rows, F)``."""
    mask, rows = table.mask, int(table.mask.sum())
    if values.shape[-1:] != (0,):
        if values.ndim == 3 and values.shape[:2] == mask.shape:
            return np.where(mask[..., None], values, np.float32(0))
        if values.ndim == 2 and len(values) == rows:
            placed = np.zeros((*mask.shape, values.shape[1]), np.float32)
            placed[_order(table)] = values
            return placed
    raise InputError(
        f"{where} has shape {values.shape}; give ({rows}, F), a row for each response, or "
        f"({mask.shape[0]}, {mask.shape[1]}, F), F >= 1"
    )


def _order(table: RawTable) -> tuple[np.ndarray, ...]:
    """Return the prompt and the response of each response of the table, in its order."""
    return np.nonzero(table.mask) if table.rows is None else table.rows


def _name_of(table: RawTable, index: int) -> str:
    """Return how messages call the response at ``index`` of the table's order."""
    if table.rows is not None:
        return f"row {index + 1}"
    prompt, response = (places[index] for places in _order(table))
    return f"prompt {prompt} response {response}"


def _from_columns(where: str, chunked: Iterable[pa.ChunkedArray], table: RawTable) -> np.ndarray:
    """Return ``(rows, F)``, or ``(prompts, responses, F)`` where responses have columns of their own."""
    columns = [column.combine_chunks() for column in chunked]
    if table.rows is None and len(columns) == 1:
        return _from_nested(where, columns[0], table)
    parts = [_vectors(where, column, lambda row: f"row {row + 1}") for column in columns]
    if table.rows is not None:
        return np.concatenate(parts, axis=-1)
    if len({part.shape for part in parts}) > 1:
        widths = ", ".join(str(part.shape[1]) for part in parts)
        raise InputError(f"{where}: its numbered columns hold {widths} numbers; give all the same number")
    return np.stack(parts, axis=1)


def _from_nested(where: str, column: pa.Array, table: RawTable) -> np.ndarray:
    """Return ``(rows, F)`` from a list for each prompt, with a list, or a number, for each response."""
    if not is_list(column.type):
        raise InputError(
            f"{where} holds {plain_type(column.type)}; give a list of lists of numbers for each prompt"
        )
    lengths = np.where(np.asarray(column.is_valid()), pc.fill_null(pc.list_value_length(column), 0), 0)
    wrong = lengths != table.mask.sum(1)
    if wrong.any():
        prompt = int(np.argmax(wrong))
        given, expected = lengths[prompt], table.mask[prompt].sum()
        raise InputError(
            f"{where} row {prompt + 1} has {given} entries for {expected} responses; give one each"
        )
    return _vectors(where, column.drop_null().flatten(), lambda index: _name_of(table, index))


def _vectors(where: str, column: pa.Array, name_of: Callable[[int], str]) -> np.ndarray:
    """Return ``(rows, F)`` from lists of one length, or ``(rows, 1)`` from numbers; NaN for nulls."""
    if is_numeric(column.type):
        return _floats(column)[:, None]
    if not is_list(column.type) or not is_numeric(column.type.value_type):
        raise InputError(f"{where} holds {plain_type(column.type)}; give a list of numbers for each response")
    there = np.asarray(column.is_valid())
    lengths = np.asarray(pc.list_value_length(column.drop_null()))
    width = int(lengths[0]) if len(lengths) else 0
    if (lengths != width).any():
        other = int(np.argmax(lengths != width))
        name = name_of(int(np.flatnonzero(there)[other]))
        raise InputError(
            f"{where}: {name} has {lengths[other]} numbers, the first list {width}; give all the same number"
        )
    values = np.full((len(column), width), np.nan, np.float32)
    values[there] = _floats(column.drop_null().flatten()).reshape(len(lengths), width)
    return values


def _floats(column: pa.Array) -> np.ndarray:
    return np.asarray(pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)
