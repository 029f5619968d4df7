"""Parquet files of others, with texts as dictionaries: 1 KB of one repeated text took 4.6 GB decoded."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cann_jax.files.expansion import check_expansion

WIDTH = 8  # bytes of a number


@dataclass(frozen=True)
class Parquet:
    """An opened file, whose texts are read as dictionaries, also those in lists.

    Args:
        path: The file, for messages.
        size: Its bytes.
        file: As Arrow opened it.
    """

    path: str
    size: int
    file: pq.ParquetFile

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows.

        Raises:
            InputError: They would be far larger than the file.
        """
        groups = range(self.file.num_row_groups)
        check_expansion(self.path, self.size, sum(self._bytes(group) for group in groups))
        # At once, Arrow reads no lists whose row groups have dictionaries of their own.
        tables = [self.file.read_row_group(group, columns) for group in groups]
        table = pa.concat_tables(tables) if tables else self.file.read(columns)
        self._check_lists(table.columns)
        return table

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, so many at once.

        Raises:
            InputError: Some would be far larger than the file.
        """
        for group in range(self.file.num_row_groups):
            check_expansion(self.path, self.size, self._bytes(group, rows))
            # One reader over all row groups would keep everything that it has read: 4 GB for 10⁹ scores.
            for batch in self.file.iter_batches(rows, row_groups=[group], columns=columns):
                self._check_lists(batch.columns)
                yield batch

    def _bytes(self, group: int, rows: int | None = None) -> int:
        """Return the most bytes that rows of a row group become, but for texts in dictionaries."""
        found, about, schema = 0, self.file.metadata.row_group(group), self.file.schema
        for index in range(about.num_columns):
            column, leaf = about.column(index), schema.column(index)
            one_a_row = leaf.max_repetition_level == 0  # a list may have all values of the group in one row
            values = min(rows, column.num_values) if rows and one_a_row else column.num_values
            found += max(max(WIDTH, leaf.length) * values, column.total_uncompressed_size)
        return found

    def _check_lists(self, columns: Iterable[pa.ChunkedArray | pa.Array]) -> None:
        """Check the texts in lists, which are decoded one by one where they are used."""
        nested = (column for column in columns if pa.types.is_nested(column.type))
        check_expansion(self.path, self.size, decoded_texts(nested))


@contextlib.contextmanager
def opened(path: str, data: bytes | None = None) -> Iterator[Parquet]:
    """Open a Parquet file, or its ``data``."""
    source = path if data is None else pa.BufferReader(data)
    about = pq.read_metadata(source)
    leaves = [about.schema.column(index) for index in range(about.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and not _is_decimal(leaf)]
    with pq.ParquetFile(source, metadata=about, read_dictionary=texts) as file:
        yield Parquet(path, os.path.getsize(path) if data is None else len(data), file)


def decoded_texts(columns: Iterable[pa.ChunkedArray | pa.Array]) -> int:
    """Return the bytes of the texts in dictionaries, once they are decoded."""
    return sum(map(_decoded, columns))


def _decoded(column: pa.ChunkedArray | pa.Array) -> int:
    if isinstance(column, pa.ChunkedArray):
        return decoded_texts(column.chunks)
    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary)
        return int(pc.sum(lengths.take(column.indices)).as_py() or 0)
    if pa.types.is_struct(column.type):
        return decoded_texts(column.flatten())
    return _decoded(column.flatten()) if pa.types.is_nested(column.type) else 0


def _is_decimal(leaf: pq.ColumnSchema) -> bool:
    return bool(leaf.logical_type.type == "DECIMAL")
