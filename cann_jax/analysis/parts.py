"""Read a Parquet table in parts of whole prompts, whose rows are adjacent."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cann_jax.analysis.columns import codes, hashes, nameless, plain, plain_schema, row_counter
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import UNFIT, reading
from cann_jax.analysis.long_table import read_long
from cann_jax.analysis.raw_table import RawTable, larger_is_better
from cann_jax.analysis.table_layout import LONG, WIDE, Layout, layout_of
from cann_jax.analysis.wide_table import read_wide
from cann_jax.files.parquet import opened

ROWS = 1 << 20  # rows read at once: tens of megabytes, and a few thousand prompts
RESPONSES = 1 << 7  # of a prompt, about: a row of a wide table holds all of them


def parquet_layout(path: str, flags: DualFlags, wanted: list[str]) -> tuple[Layout, int]:
    """Return where a Parquet file holds what, and how many rows it has; as ``layout_of``."""
    with reading(path), pq.ParquetFile(path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
        counter = None if wanted else row_counter(file.read(nameless(schema.names)))
    if counter is not None:
        schema = schema.remove(schema.get_field_index(counter))
    return dataclasses.replace(layout_of(path, plain_schema(schema), flags, wanted), counter=counter), rows


def read_part(
    layout: Layout, table: pa.Table, number: np.ndarray, cost: tuple[str, ...], whole: bool = False
) -> RawTable:
    """Return the scores of whole prompts of a table, or of the ``whole`` of it.

    The rows have these numbers in the file ``(rows,)``.

    Raises:
        InputError: A row is at fault.
    """
    with reading(layout.path, UNFIT):
        columns = pa.table({name: plain(table[name]) for name in layout.columns})
        found = (read_long if layout.shape == LONG else read_wide)(layout, columns, number, whole)
    return larger_is_better(found, cost)


def parts(layout: Layout, cost: tuple[str, ...]) -> Iterator[tuple[np.ndarray, RawTable]]:
    """Yield a hash of each prompt of a long table, and the scores, of one part after the other."""
    for own, table, number in _batches(layout):
        yield own, read_part(layout, table, number, cost)


def rows_at_once(layout: Layout) -> int:
    """Return the most rows of a part."""
    return ROWS if layout.shape == LONG else max(1, ROWS // RESPONSES)


def adjacent(hashes: Sequence[np.ndarray]) -> bool:
    """Return whether the rows of each prompt are adjacent, from the hashes of all ``parts``."""
    every = np.concatenate([*hashes, np.zeros(0, np.int64)])
    return len(np.unique(every)) == len(every)


def _batches(layout: Layout) -> Iterator[tuple[np.ndarray, pa.Table, np.ndarray]]:
    """Yield whole prompts: hashes of their names, their rows and the rows' numbers.

    Each batch leaves its last prompt to the next one.
    """
    held, numbers, first = None, np.zeros(0, np.int64), 1
    for batch in _row_groups(layout):
        table, number = pa.Table.from_batches([batch]), np.arange(first, first + len(batch))
        first += len(batch)
        if layout.shape == WIDE:
            yield np.zeros(0, np.int64), table, number
            continue
        held = table if held is None else pa.concat_tables([held, table])
        numbers = np.append(numbers, number)
        starts, hashes = _starts(layout, held)
        if len(starts) > 1:
            last = int(starts[-1])
            yield hashes[:-1], held.slice(0, last), numbers[:last]
            held, numbers = held.slice(last), numbers[last:]
    if held is not None and held.num_rows:
        yield _starts(layout, held)[1], held, numbers


def _starts(layout: Layout, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return where each prompt begins, and a hash of its name; a row without one belongs to those before."""
    with reading(layout.path, UNFIT):
        found, values = codes(plain(table[layout.prompt]))
    found = found[np.maximum.accumulate(np.where(found < 0, 0, np.arange(len(found))))]
    starts = np.flatnonzero(np.diff(found, prepend=-2))
    return starts, hashes(values)[found[starts][found[starts] >= 0]]


def _row_groups(layout: Layout) -> Iterator[pa.RecordBatch]:
    """Yield all rows in order."""
    with reading(layout.path), opened(layout.path) as file:
        yield from file.batches(rows_at_once(layout), layout.columns)
