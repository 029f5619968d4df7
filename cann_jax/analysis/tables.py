"""Score tables from Parquet, CSV, JSON lines and npz, long (a row for each response) or wide, in memory."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import pyarrow as pa

from cann_jax.analysis.array_table import ArrayTable
from cann_jax.analysis.columns import plain, plain_schema
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import UNFIT, KeyColumns, format_of, read_arrow, read_npz, reading
from cann_jax.analysis.long_table import read_long
from cann_jax.analysis.raw_table import RawTable, check_whole, larger_is_better
from cann_jax.analysis.table_layout import LONG, Layout, feature_columns, layout_of
from cann_jax.analysis.wide_table import read_wide


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
    keys = KeyColumns((flags.prompt, flags.response), flags.groups or ("group",))
    whole = read_arrow(path, suffix, keys)
    features = feature_columns(path, whole.column_names, flags, names)
    kept = [index for index, name in enumerate(whole.column_names) if name not in features]
    layout = layout_of(path, plain_schema(whole.select(kept).schema), flags, names)
    return _Columns(layout, whole, features, flags.cost)


@dataclasses.dataclass
class _Columns:
    """A table of Arrow."""

    layout: Layout
    table: pa.Table
    features: list[str]
    cost: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return list(self.layout.scores)

    def read(self) -> RawTable:
        number = np.arange(1, self.table.num_rows + 1)
        found = read_part(self.layout, self.table, number, self.cost)
        check_whole(self.layout.path, found.mask.any(), found.precision)
        return dataclasses.replace(
            found, features=self.table.select(self.features) if self.features else None
        )


def read_part(layout: Layout, table: pa.Table, number: np.ndarray, cost: tuple[str, ...]) -> RawTable:
    """Return the scores of whole prompts of a table; the rows have these numbers in the file ``(rows,)``.

    Raises:
        InputError: A row is at fault.
    """
    with reading(layout.path, UNFIT):
        columns = pa.table({name: plain(table[name]) for name in layout.columns})
        found = (read_long if layout.shape == LONG else read_wide)(layout, columns, number)
    return larger_is_better(found, cost)
