"""Score tables from Parquet, CSV, JSON lines and npz, long (a row for each response) or wide, in memory."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import pyarrow as pa

from cann_jax.analysis.columns import FirstFault, plain, plain_schema
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import UNFIT, KeyColumns, format_of, read_arrow, read_npz, reading
from cann_jax.analysis.long_table import read_long
from cann_jax.analysis.raw_table import RawTable, check_precision
from cann_jax.analysis.table_layout import LONG, Layout, layout_of, numbered, require
from cann_jax.analysis.wide_table import finish_wide, read_wide
from cann_jax.files.errors import InputError


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
        return _Arrays(path, read_npz(path), flags, names)
    keys = KeyColumns((flags.prompt, flags.response), flags.groups or ("group",))
    whole = read_arrow(path, suffix, keys)
    if whole.num_rows == 0:
        raise InputError(f"{path}: the table has no rows; write one row for each response")
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
    return _larger_is_better(found, cost)


def check_whole(path: str, some: bool | np.bool_, precision: dict[str, np.ndarray]) -> None:
    """Check what can only be said of a whole table: it has ``some`` responses, and enough precision.

    Raises:
        InputError: It has none, or all of its rows were dropped, or float32 cannot hold its scores.
    """
    if not some:
        raise InputError(f"{path}: no row has a prompt and all of its scores; write rows that do")
    check_precision(path, precision)


def _larger_is_better(table: RawTable, cost: Iterable[str]) -> RawTable:
    """Return the table with the sign of costs changed."""
    turned = {name: -table.scores[name] for name in cost if name in table.scores}
    return dataclasses.replace(table, scores=table.scores | turned)


def feature_columns(path: str, columns: Iterable[str], flags: DualFlags, wanted: Iterable[str]) -> list[str]:
    """Return the column that ``--features`` names, or its numbered columns; none if it names a file."""
    name = flags.features
    if name is None or flags.features_file:
        return []
    columns = list(columns)
    by_name = numbered(columns)
    require(path, [name], [*columns, *by_name])
    if name in (flags.prompt, flags.response, flags.reward, flags.prompt_weights, *flags.groups, *wanted):
        raise InputError(f"--features {name}: this column has another purpose; name one that holds features")
    return [name] if name in columns else by_name[name]


class _Arrays:
    """The arrays of an npz archive."""

    def __init__(self, path: str, arrays: dict[str, np.ndarray], flags: DualFlags, wanted: list[str]) -> None:
        self.path, self.flags = path, flags
        named = feature_columns(path, arrays, flags, wanted)
        self.features = arrays.pop(named[0]) if named else None
        self.mask = arrays.pop("mask", None)
        self.arrays = _unstacked(path, arrays)
        given = [flags.prompt_weights, *flags.groups]
        require(path, [flags.reward, *wanted, *(name for name in given if name)], self.arrays)
        for flag, usual in (("prompt", "prompt"), ("response", "response")):
            if getattr(flags, flag) != usual:
                raise InputError(f"--{flag}: an npz archive has no such column; leave the flag out")
        self.shape = self.arrays[flags.reward].shape
        others = [name for name, values in self.arrays.items() if values.ndim == 2 and name != flags.reward]
        self.names = [flags.reward, *(wanted or others)]

    def read(self) -> RawTable:
        if len(self.shape) != 2 or 0 in self.shape:
            what = f"{self.flags.reward} has shape {self.shape}"
            raise InputError(f"{self.path}: {what}; give (prompts, responses), neither of them 0")
        scores = {name: self._numbers(name, self.shape) for name in self.names}
        weights = self.flags.prompt_weights
        columns = self.flags.groups or (("group",) if "group" in self.arrays else ())
        found = finish_wide(
            FirstFault(self.path),
            np.arange(1, self.shape[0] + 1),
            scores,
            self._responses(),
            {name: self._labels(name) for name in columns},
            None if weights is None else self._numbers(weights, self.shape[:1]),
            self.flags.drop_missing,
        )
        check_whole(self.path, found.mask.any(), found.precision)
        return dataclasses.replace(_larger_is_better(found, self.flags.cost), features=self.features)

    def _numbers(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = self.arrays[name]
        if values.shape != shape or values.dtype.kind not in "fiub":
            given = f"{values.dtype} {values.shape}"
            raise InputError(f"{self.path}: {name} is {given}; give numbers of shape {shape}")
        return values.astype(np.float64)

    def _responses(self) -> np.ndarray:
        if self.mask is None:
            return np.ones(self.shape, bool)
        if self.mask.shape != self.shape or not np.isin(self.mask, (0, 1)).all():
            given = f"{self.mask.dtype} {self.mask.shape}"
            raise InputError(f"{self.path}: mask is {given}; give True or False in shape {self.shape}")
        return self.mask.astype(bool)

    def _labels(self, name: str) -> np.ndarray:
        values = self.arrays[name]
        if values.shape != self.shape[:1] or values.dtype.kind not in "fiubU":
            given = f"{values.dtype} {values.shape}"
            raise InputError(
                f"{self.path}: {name} is {given}; give a group for each of the {self.shape[0]} prompts"
            )
        if values.dtype.kind == "b":
            return values
        return np.array([None if value != value else str(value) for value in values.tolist()], object)


def _unstacked(path: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with ``constraints (N, K, m)`` taken apart under ``names (m,)``."""
    if "constraints" not in arrays or arrays["constraints"].ndim != 3:
        return arrays
    stacked = arrays.pop("constraints")
    names = arrays.pop("names", np.arange(stacked.shape[-1])).astype(str).ravel().tolist()
    if len(names) != stacked.shape[-1]:
        raise InputError(f"{path}: {stacked.shape[-1]} constraints, but {len(names)} names; give one each")
    for name in names:
        if name in arrays or names.count(name) > 1:
            raise InputError(f"{path}: two arrays are named {name!r}; rename one")
    return arrays | {name: stacked[..., j] for j, name in enumerate(names)}
