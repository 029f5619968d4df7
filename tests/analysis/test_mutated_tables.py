"""Files that are cut, overwritten or retyped are read, or refused in one line.

``TABLE_EXAMPLES=500`` tries that many.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.solve_table import table_problem
from cann_jax.analysis.stream_reader import open_stream
from cann_jax.files.errors import InputError
from tests.analysis.random_tables import FORMATS, parquet, random_table

many = settings(max_examples=int(os.environ.get("TABLE_EXAMPLES", "100")), deadline=None, derandomize=True)
FLAGS = DualFlags(margin=("g0=0.1", "g1@a=0"), prompt_weights="weight")
COLUMNS = ("prompt", "response", "group", "weight", "reward", "g0", "g1")
VALUES = {
    "nulls": pa.nulls(12),
    "text": pa.array([f"x{n}" for n in range(12)]),
    "bytes": pa.array([bytes([n, 200]) for n in range(12)]),
    "dates": pa.array(range(12), pa.date32()),
    "times": pa.array(range(12), pa.timestamp("us", "UTC")),
    "durations": pa.array(range(12), pa.duration("s")),
    "truth": pa.array([n % 2 == 0 for n in range(12)]),
    "large integers": pa.array([(1 << 62) + n for n in range(12)]),
    "unsigned": pa.array([(1 << 64) - 1 - n for n in range(12)], pa.uint64()),
    "half": pa.array(np.arange(12, dtype=np.float16)),
    "infinite": pa.array([np.inf] * 12),
    "decimals": pa.array(range(12), pa.decimal256(60, 20)),
    "short decimals": pa.array(range(12), pa.decimal32(5, 2)),
    "lists": pa.array([[1.0, 2.0]] * 12),
    "lists of text": pa.array([["a"]] * 12),
    "fixed lists": pa.array([[1.0, 2.0]] * 12, pa.list_(pa.float32(), 2)),
    "empty lists": pa.array([[]] * 12, pa.list_(pa.float64())),
    "structs": pa.array([{"a": n} for n in range(12)]),
    "maps": pa.array([[("a", n)] for n in range(12)], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(list("abcabcabcabc")).dictionary_encode(),
    "dictionary of numbers": pa.array([1.0, 2.0, None] * 4).dictionary_encode(),
    "views": pa.array(list("abcabcabcabc"), pa.string_view()),
}


def read(path: str, stream: bool) -> None:
    """Read a table, or refuse it in one line."""
    try:
        open_stream(path, FLAGS) if stream else table_problem(path, FLAGS)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 600


@many
@given(st.data())
def test_cut_and_overwritten_files(data):
    kind = data.draw(st.sampled_from(sorted(FORMATS)))
    suffix, save = FORMATS[kind]
    table = random_table(data.draw(st.integers(0, 99)), 2, False, True, ["a", "b", "c", "d"], kind != "npz")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{suffix}"
        save(path, table, 5)
        content = bytearray(path.read_bytes())
        places = st.integers(0, len(content) - 1)
        for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
            content[place] = value
        if data.draw(st.booleans()):
            content = content[: data.draw(places)]
        path.write_bytes(bytes(content))
        read(str(path), stream=False)
        if suffix.lower() == ".parquet":
            read(str(path), stream=True)


@many
@given(
    st.integers(0, 99),
    st.lists(st.tuples(st.sampled_from(COLUMNS), st.sampled_from(sorted(VALUES))), min_size=1, max_size=3),
    st.permutations(range(12)),
    st.booleans(),
)
def test_retyped_columns_and_shuffled_rows(seed, changes, order, shuffle):
    table = pa.Table.from_pylist(random_table(seed, 2, False, False, ["a", "b", "c", "d"]).rows())
    table = table.take(pa.array(order)) if shuffle else table
    for name, values in changes:
        table = table.set_column(table.column_names.index(name), name, VALUES[values])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        parquet(path, table, 5)
        read(str(path), stream=False)
        read(str(path), stream=True)
