"""Score tables from Parquet, CSV, JSON lines and npz, long (a row for each response) or wide, in memory."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from cann_jax.analysis.array_table import ArrayTable
from cann_jax.analysis.columns import plain_schema, row_counter
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import KeyColumns, format_of, read_arrow, read_npz, reading
from cann_jax.analysis.parts import adjacent, parquet_layout, parts, read_part, rows_at_once
from cann_jax.analysis.raw_table import RawTable, check_whole, joined
from cann_jax.analysis.table_layout import Layout, check_feature_numbers, feature_columns, layout_of
from cann_jax.files.errors import InputError
from cann_jax.files.parquet import opened


class Source(Protocol):
    """An opened table, of which the columns are known and the rows are not yet read."""

    @property
    def names(self) -> list[str]:
        """The scores, the reward's first."""

    def read(self) -> RawTable:
        """Return all of it.

        Raises:
            InputError: A row is at fault, or there is none.
        """


def read_scores(path: str, flags: DualFlags, wanted: Iterable[str] = ()) -> RawTable:
    """Read a score table; see ``open_scores``."""
    return open_scores(path, flags, wanted).read()


def open_scores(path: str, flags: DualFlags, wanted: Iterable[str] = ()) -> Source:
    """Open a score table.

    Args:
        path: The file; the end of its name determines the format.
        flags: They name the columns, and the features, which are no scores.
        wanted: Names of the constraint scores; if empty, every numeric column is one.

    Raises:
        InputError: The file is missing, empty or unreadable; a column is missing (the message names the
            nearest one), stands there twice or holds no numbers; or the features are a column with another
            purpose.
    """
    suffix, names = format_of(path), list(wanted)
    if suffix == ".npz":
        return ArrayTable(path, read_npz(path), flags, names)
    if suffix == ".parquet" and flags.features is None and Path(path).is_file():
        layout, rows = parquet_layout(path, flags, names)
        if rows > rows_at_once(layout):
            return _Columns(layout, flags.cost, None, [])
    keys = KeyColumns((flags.prompt, flags.response), flags.groups or ("group",))
    return open_arrow(path, read_arrow(path, suffix, keys), flags, names)


def open_arrow(path: str, whole: pa.Table, flags: DualFlags, wanted: Iterable[str] = ()) -> Source:
    """Open a table of Arrow, which messages call ``path``; as ``open_scores``."""
    names = list(wanted)
    features = feature_columns(path, whole.column_names, flags, names)
    counter = None if names else row_counter(whole)
    if counter is not None:
        whole = whole.drop_columns([counter])
    kept = [index for index, name in enumerate(whole.column_names) if name not in features]
    layout = layout_of(path, plain_schema(whole.select(kept).schema), flags, names)
    check_feature_numbers(path, layout, str(flags.features), features)
    return _Columns(dataclasses.replace(layout, counter=counter), flags.cost, whole, features)


@dataclasses.dataclass
class _Columns:
    """A table of Arrow; None: Parquet of many rows, of which reading makes ten times as much at once."""

    layout: Layout
    cost: tuple[str, ...]
    table: pa.Table | None
    features: list[str]

    @property
    def names(self) -> list[str]:
        return list(self.layout.scores)

    def read(self) -> RawTable:
        found = self._in_parts() if self.table is None else self._at_once(self.table)
        check_whole(self.layout.path, found.mask.any(), found.precision, found.names)
        return dataclasses.replace(found, counter=self.layout.counter)

    def _at_once(self, table: pa.Table) -> RawTable:
        found = read_part(self.layout, table, np.arange(1, table.num_rows + 1), self.cost, True)
        features = table.select(self.features) if self.features else None
        return dataclasses.replace(found, features=features)

    def _in_parts(self) -> RawTable:
        hashes: list[np.ndarray] = []
        found: list[RawTable] = []
        try:
            for own, part in parts(self.layout, self.cost):
                hashes.append(own)
                found.append(dataclasses.replace(part, rows=None))
        except InputError:
            if adjacent(hashes):  # else a row before that one may be at fault
                raise
        if adjacent(hashes):
            return joined(found)
        with reading(self.layout.path), opened(self.layout.path) as file:
            table = file.read(self.layout.columns)
        return self._at_once(table)
