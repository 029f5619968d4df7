"""Files of tables as pandas, Spark, R and spreadsheets write them, read into Arrow's tables."""

import codecs
import contextlib
import csv
import io
import json
import re
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from cann_jax.analysis.columns import is_list, numbers, parse
from cann_jax.files.errors import InputError
from cann_jax.files.expansion import check_expansion, gunzip
from cann_jax.files.parquet import opened
from cann_jax.files.paths import reached

TEXT = (".csv", ".tsv", ".jsonl", ".json")
TABLES = (".parquet", *TEXT)
FORMATS = (*TABLES, ".npz")
SEPARATORS = (",", ";", "\t", "|")
TRUTH = ("true", "True", "TRUE", "false", "False", "FALSE")
DEEP = 500  # brackets in a line that are looked at; Python reads 1000 in one another, and Arrow 10,000
_CHANGED = re.compile(r"Column\(/(.*)\) changed from (\w+) to (\w+) in row (\d+)")  # as Arrow says it
_OPEN_LIST, _BEHIND = re.compile(r"\s*\[\s*"), re.compile(r"\s*([,\]])\s*")
# Numbers of JSON that float64 would round: all digits of integers, else 46 of them and 30 behind the point.
DIGITS = (pa.decimal256(76, 0), pa.decimal256(76, 30))
BLOCK = 1 << 26  # a row may not be longer than Arrow's block, which is 1 MB by default


def format_of(path: str, formats: Sequence[str] = FORMATS) -> str:
    """Return which of the formats a file has, by the end of its name; text may be compressed (``.gz``).

    Raises:
        InputError: It has none of them, or there is no file, or an empty one.
    """
    name = path.lower()
    with reached(path, "table"):
        file = epath.Path(path)
        if not file.is_file():
            what = "a folder; give one of its files" if file.is_dir() else "no such file; give a table"
            raise InputError(f"{path}: {what} ending in {', '.join(formats)}")
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in (TEXT if name.endswith(".gz") else formats):
        known = f"{', '.join(formats)}, or {', '.join(s + '.gz' for s in TEXT)}"
        raise InputError(f"{path}: cannot tell the format; name it {known}")
    if file.stat().length == 0:
        raise InputError(f"{path}: the file is empty; write one row for each response")
    return suffix


# What libraries raise about values that do not fit what they are read as, and about broken files.
UNFIT = (pa.ArrowException, UnicodeError, OverflowError)
BROKEN = (
    *(*UNFIT, OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, csv.Error),
    *(TypeError, tokenize.TokenError),  # NumPy's, of headers that are no dictionary of shape and type
)


@contextlib.contextmanager
def reading(path: str, errors: tuple[type[Exception], ...] = BROKEN) -> Iterator[None]:
    """Turn ``errors`` into one line about a file."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        kind = Path(path.lower().removesuffix(".gz")).suffix[1:]
        what = f"{kind} table" if kind else "table"
        raise InputError(f"{path}: not a readable {what} ({reason}); write it again") from error


class KeyColumns(NamedTuple):
    """Columns whose values are names, in a format that does not tell text from numbers.

    Attributes:
        texts: Prompts and responses.
        labels: Groups, which may also be true and false.
    """

    texts: Collection[str]
    labels: Collection[str]


def read_arrow(path: str, suffix: str, columns: KeyColumns) -> pa.Table:
    """Return the table in a file of any format but npz.

    Raises:
        InputError: It cannot be read.
    """
    with reading(path):
        data = epath.Path(path).read_bytes()
        if suffix == ".parquet":
            with opened(path, data) as file:
                return file.read()
        text = _text(path, data)
        return (
            _read_json(path, text, columns)
            if suffix in (".jsonl", ".json")
            else _read_csv(path, text, suffix, columns)
        )


def _text(path: str, data: bytes) -> bytes:
    """Return the text in a file, which may be compressed."""
    return _utf8(path, gunzip(path, data) if path.lower().endswith(".gz") else data)


def lines_of(path: str) -> list[int]:
    """Return the line in which each row of a file begins, from 1 on; empty where it is no text with lines.

    It is read again for that: only who writes a message asks.
    """
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    if suffix not in TEXT or not epath.Path(path).is_file():
        return []
    data = _text(path, epath.Path(path).read_bytes())
    if suffix in (".jsonl", ".json"):
        rows = [number for number, line in enumerate(io.BytesIO(data), 1) if line.strip()]
        return [] if data.lstrip().startswith(b"[") else rows
    separator, _, spaced = _header(data, suffix)
    reader = csv.reader(
        io.StringIO(data.decode("utf-8", "replace"), newline=""), delimiter=separator, skipinitialspace=spaced
    )
    found, last = [], 0
    with contextlib.suppress(csv.Error):  # a text too long for it: later rows have their number
        for row in reader:
            if row:
                found.append(last + 1)
            last = reader.line_num
    return found[1:]


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of an npz archive.

    Raises:
        InputError: It cannot be read.
    """
    with reading(path):
        data = epath.Path(path).read_bytes()
        arrays = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: holds one array without a name; write it by numpy.savez")
        with arrays, zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_expansion(path, len(data), sum(entry.file_size for entry in archive.infolist()))
            return dict(arrays)


def _utf8(path: str, data: bytes) -> bytes:
    """Return text in UTF-8 without a byte order mark, from UTF-8 or marked UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").encode()
    if b"\0" in data:
        raise InputError(f"{path}: holds zero bytes, so it is no UTF-8 text; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def _read_json(path: str, data: bytes, columns: KeyColumns) -> pa.Table:
    import pyarrow.json

    if data.lstrip().startswith(b"["):
        data = _as_lines(path, data.decode())
        if not data:
            return pa.table({})

    def read(schema: pa.Schema) -> pa.Table:
        parse = pyarrow.json.ParseOptions(explicit_schema=schema)
        return pyarrow.json.read_json(
            pa.BufferReader(data), pyarrow.json.ReadOptions(block_size=BLOCK), parse
        )

    for number, line in enumerate(io.BytesIO(data), 1):
        # Deep nesting ends Arrow's parser, and the process with it.
        if len(line) > DEEP and line.count(b"[") + line.count(b"{") > DEEP:
            _check_json(path, number, line)
    try:
        table = read(pa.schema([]))
    except pa.ArrowInvalid as error:
        if changed := _CHANGED.search(str(error)):
            name, before, behind, row = changed.groups()
            kinds = f"{before}s, and a {behind} in row {int(row) + 1}"
            raise InputError(f"{path}: {name} holds values of several types ({kinds}); write one") from None
        for number, line in enumerate(io.BytesIO(data), 1):  # Arrow does not say where
            if line.strip():
                _check_json(path, number, line)
        raise
    keys = {*columns.texts, *columns.labels}
    large = [name for name in table.column_names if name in keys and _has_rounded(table[name])]
    for digits in DIGITS:
        wanted = [_exact(f.type, digits if f.name in large else pa.float64()) for f in table.schema]
        pairs = zip(table.schema, wanted, strict=True)
        changed_types = pa.schema([field.with_type(kind) for field, kind in pairs if kind != field.type])
        try:
            return read(changed_types) if len(changed_types) else table
        except pa.ArrowInvalid:
            if not large:
                raise
    raise InputError(f"{path}: {large[0]} holds numbers of too many digits; write them in quotation marks")


def _exact(kind: pa.DataType, number: pa.DataType) -> pa.DataType:
    """Return the type by which JSON that Arrow reads as ``kind`` keeps what tells values apart.

    Texts that are all dates become times, and two ways to write one time would be one prompt, in a chat too;
    numbers with a point, or from 2⁶³ on, become floats, for which ``number`` is read.
    """
    if is_list(kind):
        return pa.list_(_exact(kind.value_type, number))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_exact(field.type, number)) for field in kind])
    if pa.types.is_timestamp(kind):
        return pa.string()
    return number if pa.types.is_floating(kind) else kind


def _has_rounded(column: pa.ChunkedArray) -> bool:
    """Return whether floats in a column, or in its lists, may stand for several numbers in the file."""
    if is_list(column.type):
        return _has_rounded(pc.list_flatten(column))
    if pa.types.is_struct(column.type):
        return any(map(_has_rounded, column.flatten()))
    return bool(
        pa.types.is_floating(column.type) and pc.any(pc.greater_equal(pc.abs(column), 2.0**53)).as_py()
    )


def _as_lines(path: str, text: str) -> bytes:
    """Return a list of objects, as pandas and jq write it, with a line for each.

    One at a time: 4 KB of gzip held a list of objects that took 117 MB all at once.
    """
    decoder, lines = json.JSONDecoder(), io.BytesIO()
    begun = _OPEN_LIST.match(text)
    assert begun is not None, "the caller has seen the bracket"
    place, ended = begun.end(), text.startswith("]", begun.end())
    while not ended:
        row, end = decoder.raw_decode(text, place)
        if not isinstance(row, dict):
            raise InputError(f"{path}: its list holds more than objects; write one object for each row")
        lines.write(text[place:end].replace("\n", " ").replace("\r", " ").encode() + b"\n")
        found = _BEHIND.match(text, end)
        if found is None:
            raise ValueError(f"no comma at character {end}")
        place, ended = found.end(), found[1] == "]"
        if ended and place < len(text):
            raise ValueError(f"more behind its list, at character {place}")
    return lines.getvalue()


def _check_json(path: str, number: int, line: bytes) -> None:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: line {number} is not JSON; write one object a line") from None


def _read_csv(path: str, data: bytes, suffix: str, columns: KeyColumns) -> pa.Table:
    import pyarrow.csv

    separator, names, spaced = _header(data, suffix)
    refuse_doubled(path, names)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(_without_spaces(data, separator) if spaced else data),
        pyarrow.csv.ReadOptions(
            block_size=BLOCK, use_threads=False
        ),  # threads would not name the row at fault
        pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        # All text, or 007 and 7 would be one prompt. What is empty, or NA as R
        # writes it, is missing; in quotes it is a text.
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=["", "NA"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table({name: _typed(table[name], name, columns) for name in table.column_names})


def _header(data: bytes, suffix: str) -> tuple[str, list[str], bool]:
    """Return the separator by which the first row has most fields, these, and whether spaces follow it."""
    separators = ("\t",) if suffix == ".tsv" else SEPARATORS

    def fields(separator: str, skip: bool) -> list[str]:
        # read as far as the header goes: one of 900 responses to a prompt has over 64 KB
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8", "replace", newline="")
        # Another separator may leave a quote open to the end of the file.
        with contextlib.suppress(csv.Error):
            for row in csv.reader(text, delimiter=separator, skipinitialspace=skip):
                if row:  # Arrow leaves out empty lines, too
                    return row
        return []

    separator = max(separators, key=lambda each: len(fields(each, skip=True)))
    kept = fields(separator, skip=False)[1:]
    spaced = bool(kept) and all(name.startswith(" ") for name in kept)
    return separator, fields(separator, spaced), spaced


def _without_spaces(data: bytes, separator: str) -> bytes:
    """Return CSV without the spaces that begin its values, which Arrow would keep, quotes and all."""
    begin = rb"(?<![^\r\n" + re.escape(separator.encode()) + rb"])"
    # by a function, which takes 0.8 s a million values, and a template 1.8 s
    return re.sub(begin + rb' *("[^"]*+(?:""[^"]*+)*+")?', lambda found: found[1] or b"", data)


def _typed(column: pa.ChunkedArray, name: str, columns: KeyColumns) -> pa.ChunkedArray:
    """Return a column of CSV as what all of it spells: integers, true and false, or numbers; else text.

    Keys turn into nothing that would make two of them one.
    """
    if column.null_count == len(column):
        return column
    whole = _integers(column)
    if whole is not None:
        return whole
    if name in columns.texts:
        return column
    if pc.all(pc.is_in(column, pa.array([*TRUTH, None]))).as_py():
        return pc.equal(pc.utf8_lower(column), "true")
    # Most columns of text show it at once, and looking through all of it is slow.
    if name in columns.labels or numbers(column.slice(0, 64))[1].any():
        return column
    values, wrong = numbers(column)
    return column if wrong.any() else pa.chunked_array([pa.array(values)])


def _integers(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return the integers that text spells, each in the one way that gives the same text again; else None."""
    found = parse(column, pa.int64())
    if found is None:
        return None
    return found if pc.all(pc.equal(found.cast(pa.string()), column)).as_py() else None


def refuse_doubled(path: str, names: list[str]) -> None:
    """Check that no two columns have one name.

    Raises:
        InputError: Two do.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: {count} columns are named {name!r}; rename all but one")
