"""Read score tables from Parquet, CSV, JSON lines and npz, long (a row for each response) or wide."""

import dataclasses
import json
import re
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cann_jax.analysis.flags import DualFlags
from cann_jax.files.errors import InputError, nearest

READERS = (".parquet", ".csv", ".jsonl", ".json", ".npz")


@dataclasses.dataclass(frozen=True)
class RawTable:
    """Scores as arrays, before any constraint is chosen.

    Attributes:
        scores: ``(prompts, responses)`` float32 by name; NaN where there is no response.
        prompt_columns: ``(prompts,)`` by name; values that all responses of a prompt share.
        mask: ``(prompts, responses)`` bool; False where there is no response.
        rows: The prompt and the response of each row of a long table, each ``(rows,)``; None for others.
        features: The columns, or the array, that ``--features`` names, as the file holds them.
    """

    scores: dict[str, np.ndarray]
    prompt_columns: dict[str, np.ndarray]
    mask: np.ndarray
    rows: tuple[np.ndarray, np.ndarray] | None = None
    features: pa.Table | np.ndarray | None = None


def read_scores(path: str, flags: DualFlags, wanted: Iterable[str] = ()) -> RawTable:
    """Read a score table.

    Args:
        path: The file; its suffix determines the format.
        flags: They name the prompt, response and reward columns, and the features, which are no scores.
        wanted: Names of scores that must be there; if empty, every numeric column is a score.

    Raises:
        InputError: The file is missing, empty or unreadable; a column is missing (the message names the
            nearest one), holds text among numbers (it names the row) or has another shape than the reward;
            a (prompt, response) pair occurs twice; or the features are a column with another purpose.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: no such file; give --scores a table ending in {', '.join(READERS)}")
    if file.suffix not in READERS:
        raise InputError(f"{path}: cannot tell the format; name it {', '.join(READERS)}")
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; write one row for each response")
    if file.suffix == ".npz":
        return _from_npz(path, flags, list(wanted))
    whole = _read_arrow(file)
    if whole.num_rows == 0:
        raise InputError(f"{path}: the table has no rows; write one row for each response")
    features = _feature_columns(path, whole.column_names, flags, wanted)
    table = whole.drop_columns(features)
    wide = _widen(table, flags.reward)
    if wide is not None:
        found = _from_wide(path, table, wide, flags.reward, list(wanted))
    else:
        found = _from_long(path, table, flags, list(wanted))
    return dataclasses.replace(found, features=whole.select(features) if features else None)


def _read_arrow(file: Path) -> pa.Table:
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as opened:  # read_table would import pyarrow.dataset first
                return opened.read()
        if file.suffix == ".csv":
            import pyarrow.csv

            return pyarrow.csv.read_csv(file)
        import pyarrow.json

        return pyarrow.json.read_json(file)
    except (pa.ArrowInvalid, OSError) as error:
        line = _bad_line(file) if file.suffix in (".jsonl", ".json") else ""
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not a readable {file.suffix[1:]} table{line} ({reason})") from error


def _bad_line(file: Path) -> str:
    """Return where JSON lines stop being JSON, which Arrow does not report."""
    for number, line in enumerate(file.open(encoding="utf-8", errors="replace"), 1):
        try:
            json.loads(line)
        except ValueError:
            return f"; line {number} is not JSON"
    return ""


def require(path: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that a table has the columns ``names``.

    Raises:
        InputError: A column is missing; the message names the nearest one that exists.
    """
    known = list(known)
    for name in names:
        if name not in known:
            hint = f"did you mean {nearest(name, known)}?" if known else "it has no columns"
            raise InputError(f"{path}: no column {name}; {hint}")


def _feature_columns(path: str, columns: Iterable[str], flags: DualFlags, wanted: Iterable[str]) -> list[str]:
    """Return the column that ``--features`` names, or its numbered columns; none if it names a file."""
    name = flags.features
    if name is None or flags.features_file:
        return []
    columns = list(columns)
    numbered = _numbered(columns)
    require(path, [name], [*columns, *numbered])
    if name in (flags.prompt, flags.response, flags.reward, flags.prompt_weights, *wanted):
        raise InputError(f"--features {name}: this column has another purpose; name one that holds features")
    return [name] if name in columns else numbered[name]


def _numbers(path: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return float32 ``(rows,)``; missing values are NaN, which ``check_scores`` reports."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for row, text in enumerate(column.to_pylist(), 1):
            try:
                float(text)
            except (TypeError, ValueError):
                where = f"column {name} row {row}"
                raise InputError(f"{path}: {where} is {text!r}, not a number; fix it") from None
        column = pc.cast(column, pa.float64())
    if not is_numeric(column.type):
        raise InputError(f"{path}: column {name} holds {column.type}, not numbers; convert it or drop it")
    return np.asarray(pc.cast(column, pa.float32()).to_numpy(), np.float32)


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values of this type are numbers; booleans are 0 and 1."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of this type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _widen(table: pa.Table, reward: str) -> dict[str, list[str]] | None:
    """Return each score's columns by its name if the table has a row for each prompt; None if it is long."""
    if reward in table.column_names and pa.types.is_list(table.schema.field(reward).type):
        return {n: [n] for n in table.column_names if pa.types.is_list(table.schema.field(n).type)}
    numbered = _numbered(table.column_names)
    return None if reward in table.column_names or reward not in numbered else numbered


def _numbered(columns: Iterable[str]) -> dict[str, list[str]]:
    """Return the columns NAME_0, NAME_1, … in order, by their name."""
    numbered: dict[str, list[str]] = {}
    for column in columns:
        match = re.fullmatch(r"(.+)_(\d+)", column)
        if match:
            numbered.setdefault(match[1], []).append(column)
    return {n: sorted(c, key=lambda x: int(x.rsplit("_", 1)[1])) for n, c in numbered.items()}


def _from_wide(
    path: str, table: pa.Table, wide: dict[str, list[str]], reward: str, wanted: list[str]
) -> RawTable:
    require(path, [reward, *wanted], wide)
    scores = {
        name: _list_column(path, name, table[name].combine_chunks())
        if parts == [name]
        else np.stack([_numbers(path, part, table[part]) for part in parts], axis=-1)
        for name, parts in wide.items()
        if not wanted or name in (reward, *wanted)
    }
    width = scores[reward].shape[1]
    for name, values in scores.items():
        if values.shape[1] != width:
            raise InputError(f"{path}: {name} has {values.shape[1]} responses a prompt, the reward {width}")
    used = {part for parts in wide.values() for part in parts}
    lengths = np.full(table.num_rows, width)
    if wide[reward] == [reward]:
        lengths = np.asarray(pc.list_value_length(table[reward].combine_chunks()))
    return RawTable(scores, _prompt_columns(table, used), np.arange(width) < lengths[:, None])


def _list_column(path: str, name: str, column: pa.Array) -> np.ndarray:
    """Return ``(prompts, longest)`` from lists, padded with NaN."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    values = _numbers(path, name, pa.chunked_array([column.flatten()]))
    padded = np.full((len(lengths), lengths.max(initial=0)), np.nan, np.float32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded


def _from_long(path: str, table: pa.Table, flags: DualFlags, wanted: list[str]) -> RawTable:
    require(path, [flags.prompt, flags.reward, *wanted], table.column_names)
    apart = {flags.prompt, flags.response, flags.reward, flags.prompt_weights}
    numeric = [n for n in table.column_names if n not in apart and is_numeric(table.schema.field(n).type)]
    chosen = [flags.reward, *(wanted or numeric)]
    codes = _codes(table, flags.prompt)
    place, counts = _places(codes)
    if flags.response in table.column_names:
        _refuse_duplicates(path, codes, table, flags)
    shape = (len(counts), counts.max())
    scores = {}
    for name in chosen:
        scores[name] = np.full(shape, np.nan, np.float32)
        scores[name][codes, place] = _numbers(path, name, table[name])
    first = np.zeros(len(counts), np.int64)
    first[codes[place == 0]] = np.flatnonzero(place == 0)
    others = _prompt_columns(table.take(pa.array(first)), (flags.response, *chosen))
    return RawTable(scores, others, np.arange(shape[1]) < counts[:, None], (codes, place))


def _prompt_columns(table: pa.Table, used: Container[str]) -> dict[str, np.ndarray]:
    """Return the columns of a row for each prompt that are not ``used``; lists name no group or weight."""
    rest = [name for name in table.column_names if name not in used]
    return {n: np.asarray(table[n].to_pylist()) for n in rest if not is_list(table.schema.field(n).type)}


def _places(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's index among its prompt's rows, in file order, and the number of rows per prompt."""
    counts = np.bincount(codes)
    order = np.argsort(codes, kind="stable")
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, counts


def _codes(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].combine_chunks().dictionary_encode().indices)


def _refuse_duplicates(path: str, codes: np.ndarray, table: pa.Table, flags: DualFlags) -> None:
    responses = _codes(table, flags.response)
    pair = codes.astype(np.int64) * (int(responses.max()) + 1) + responses
    _, first, counts = np.unique(pair, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[counts > 1][0])
        prompt, response = table[flags.prompt][row].as_py(), table[flags.response][row].as_py()
        raise InputError(
            f"{path}: {int((counts > 1).sum())} (prompt, response) pairs occur twice, first ({prompt!r}, "
            f"{response!r}) of row {row + 1}; drop the duplicates or number the responses"
        )


def _from_npz(path: str, flags: DualFlags, wanted: list[str]) -> RawTable:
    reward = flags.reward
    try:
        arrays = dict(np.load(path, allow_pickle=False))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable npz archive ({error})") from error
    features = [arrays.pop(name) for name in _feature_columns(path, arrays, flags, wanted)]
    mask = arrays.pop("mask", None)
    if "constraints" in arrays and arrays["constraints"].ndim == 3:
        stacked = arrays.pop("constraints")
        names = arrays.pop("names", np.arange(stacked.shape[-1]).astype(str))
        arrays |= {str(name): stacked[..., j] for j, name in enumerate(names)}
    require(path, [reward, *wanted], arrays)
    shape = arrays[reward].shape
    scores = {}
    for name, values in arrays.items():
        if values.ndim != 2 or (wanted and name not in (reward, *wanted)):
            continue
        if values.shape != shape or values.dtype.kind not in "fiub":
            given = f"{values.dtype} {values.shape}"
            raise InputError(f"{path}: {name} is {given}; give numbers of shape {shape}")
        scores[name] = values.astype(np.float32)
    require(path, [reward, *wanted], scores)
    others = {n: v for n, v in arrays.items() if v.ndim == 1 and len(v) == shape[0]}
    mask = np.ones(shape, bool) if mask is None else mask.astype(bool)
    if mask.shape != shape:
        raise InputError(f"{path}: mask has shape {mask.shape}; give {shape}, as the reward")
    return RawTable(scores, others, mask, features=features[0] if features else None)


def prompt_weights(table: RawTable, flags: DualFlags, path: str) -> np.ndarray | None:
    """Return ``(prompts,)`` weights from their column, or None if no column is named.

    Raises:
        InputError: The column is missing or holds something other than numbers.
    """
    name = flags.prompt_weights
    if name is None:
        return None
    require(path, [name], table.prompt_columns)
    try:
        return table.prompt_columns[name].astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: column {name} holds more than numbers ({error})") from None
