"""What the columns of a table hold, whichever of Arrow's types they have: numbers, keys and labels."""

import decimal
import json
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# How pandas, R, Spark and spreadsheets write that there is no number.
NO_NUMBER = ("", "na", "n/a", "#n/a", "nan", "null", "none", "<na>")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?[iI][nN][fF]([iI][nN][iI][tT][yY])?$"

_WHOLE = pa.decimal256(75, 0)  # a difference takes one digit more, and 76 are the most


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column with run lengths decoded, short decimals as long ones, and lists as lists.

    Decimals stay exact: as floats, ids from 2⁵³ on were one. Dictionaries are decoded but for those of texts,
    which may be thousands of times as large then.
    """
    kind = column.type
    wanted = plain_type(kind)
    if pa.types.is_dictionary(kind) and (is_text(wanted) or pa.types.is_binary(wanted)):
        return column
    return column if wanted == kind else column.cast(wanted)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the types that the columns of a table have once they are plain."""
    return pa.schema([(field.name, plain_type(field.type)) for field in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column of this type once it is plain."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_decimal(kind) and kind.bit_width < 128:  # which Arrow finds no distinct values of
        return pa.decimal128(kind.precision, kind.scale)
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values of this type are numbers; booleans are 0 and 1."""
    return bool(
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def is_whole(kind: pa.DataType) -> bool:
    """Return whether values of this type are whole numbers; databases write integers as decimals, too."""
    return bool(pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0))


def nameless(names: Sequence[str]) -> list[str]:
    """Return the columns without a name, or with one that pandas gives them."""
    return [name for name in names if re.fullmatch(r"(Unnamed: \d+)?", name) and names.count(name) == 1]


def row_counter(table: pa.Table) -> str | None:
    """Return the column without a name that counts rows from 0 on, as pandas writes its index; else None."""
    for name in nameless(table.column_names):
        own = table[name]
        if pa.types.is_integer(own.type) and np.array_equal(own.to_numpy(), np.arange(len(own))):
            return str(name)
    return None


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of this type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def holds_numbers(kind: pa.DataType) -> bool:
    """Return whether a plain column of this type can be read as numbers."""
    return is_numeric(kind) or is_text(kind) or bool(pa.types.is_null(kind))


def numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a plain column's numbers ``(rows,)`` in float64, NaN for missing ones, and which are none.

    Text counts as the number that it spells, but for spaces around it.
    """
    if pa.types.is_dictionary(column.type):
        rows, texts = codes(column)
        found, unfit = numbers(pa.chunked_array([texts]))
        return np.append(found, np.nan)[rows], np.append(unfit, False)[rows]
    wrong = np.zeros(len(column), bool)
    if is_text(column.type):
        values = _parsed(column)
        if values is not None:
            return values, wrong
        text = pc.utf8_trim_whitespace(column)
        text = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(NO_NUMBER, text.type)), None, text)
        spelled = pc.fill_null(pc.match_substring_regex(text, NUMBER), True)
        wrong = ~spelled.to_numpy()
        column = pc.if_else(spelled, text, None)
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64), wrong


def rounded_off(column: pa.ChunkedArray, values: np.ndarray) -> np.ndarray | None:
    """Return what float64 leaves out of a plain column's whole numbers ``(rows,)``; None where it keeps all.

    ``values`` are its ``numbers``: 2⁶⁰ + 1 and 2⁶⁰ are one there, and seemed never to differ.
    """
    if not is_whole(column.type):
        return None
    largest = np.max(np.abs(values), initial=0, where=~np.isnan(values))
    if not 2.0**53 <= largest <= np.finfo(np.float32).max:  # beyond that a score is refused
        return None
    kept = column.cast(pa.float64(), safe=False).cast(_WHOLE)
    return np.asarray(pc.subtract(column.cast(_WHOLE), kept).cast(pa.float64()).to_numpy())


def _parsed(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return the numbers of text that holds nothing else; None if it may, which takes ten times as long."""
    found = parse(column, pa.float64())
    if found is None or pc.any(pc.is_nan(found)).as_py():  # Arrow reads "nan(0)" too
        return None
    return np.asarray(found.to_numpy(), np.float64)


def parse(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return text as the numbers that Arrow reads in it; None where some of it is none."""
    try:
        column.slice(0, 64).cast(kind)  # a million texts that are none take a quarter of a second to fail
        return column.cast(kind)
    except pa.ArrowInvalid:
        return None


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return each row's number among the distinct values, -1 where there is none, and these values.

    Values are numbered as they first appear. Nested values, such as the turns of a chat, count as their JSON.
    """
    if pa.types.is_dictionary(column.type):
        return _codes_in_dictionaries(column)
    if pa.types.is_nested(column.type):
        written = (None if v is None else json.dumps(v, default=str) for v in column.to_pylist())
        column = pa.chunked_array([pa.array(written, pa.large_string())])
    elif pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.zeros(0, np.int64), pa.array([], column.type)
    return np.concatenate([_indices(chunk) for chunk in encoded.chunks]), encoded.chunk(0).dictionary


def hashes(values: pa.Array) -> np.ndarray:
    """Return a number for each value, by which parts of a table tell whether others have it."""
    if is_text(values.type):  # by NumPy's objects in a fifth of the time
        return np.fromiter(map(hash, values.to_numpy(zero_copy_only=False)), np.int64, len(values))
    return np.array([hash(str(value)) for value in values.to_pylist()], np.int64)


def row_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """Return ``hashes`` of a plain column's rows ``(rows,)``, 0 where there is none.

    Most are distinct; to number them first, as ``codes`` does, took 10 s a million names.
    """
    if pa.types.is_dictionary(column.type):
        parts = [_hashes_in_dictionary(chunk) for chunk in column.chunks]
        return np.asarray(np.concatenate([np.zeros(0, np.int64), *parts]))
    if is_text(column.type):
        every = np.concatenate([np.zeros(0, np.int64), *map(hashes, column.chunks)])
        return np.asarray(np.where(column.is_valid().to_numpy(), every, 0))
    rows, values = codes(column)
    return np.asarray(np.append(hashes(values), 0)[rows])


def _hashes_in_dictionary(chunk: pa.DictionaryArray) -> np.ndarray:
    # each batch of a Parquet file brings the dictionary of all before it in its row group
    used, which = np.unique(_indices(chunk), return_inverse=True)
    entries = plain(pa.chunked_array([chunk.dictionary])).take(pa.array(used, mask=used < 0))
    return np.asarray(row_hashes(entries)[which])


def _codes_in_dictionaries(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return ``codes`` of a column whose dictionaries may have unused, equal or missing entries."""
    kind = column.type.value_type
    entries = pa.chunked_array([chunk.dictionary for chunk in column.chunks], kind)
    of_entry, values = codes(plain(entries))
    parts, first = [np.zeros(0, np.int64)], 0
    for chunk in column.chunks:
        own = of_entry[first : first + len(chunk.dictionary)]
        parts.append(np.append(own, -1)[_indices(chunk)])
        first += len(own)
    found = np.concatenate(parts)
    rows, used = codes(pa.chunked_array([pa.array(found, mask=found < 0)]))
    return rows, values.take(used)


def _indices(chunk: pa.DictionaryArray) -> np.ndarray:
    """Return the places of the values in a dictionary, -1 where there is none; polars' are unsigned."""
    return np.asarray(pc.fill_null(chunk.indices.cast(pa.int64()), -1))


def labels(column: pa.ChunkedArray) -> np.ndarray:
    """Return the column's values ``(rows,)`` as text, None where there is none; booleans stay booleans."""
    if pa.types.is_boolean(column.type):
        return np.asarray(pc.fill_null(column, False).to_numpy(), bool)
    found, values = codes(column)
    return np.asarray(np.array([*map(_spelled, values.to_pylist()), None], object)[found])


def _spelled(value: object) -> str:
    """Return a value as text; a decimal without the zeros that its column writes behind it: 7 for 7.00."""
    if not isinstance(value, decimal.Decimal):
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
