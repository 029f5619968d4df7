"""Tables that a few kilobytes make gigabytes of, or that end a parser: one line, soon, in little memory."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.analysis.columns import codes, numbers
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import KeyColumns, format_of, read_arrow, read_npz
from cann_jax.analysis.stream_reader import open_stream
from cann_jax.analysis.tables import read_scores
from cann_jax.files.errors import InputError
from tests.builders.limits import fault

MANY = 100 << 20  # bytes that a refused file stands for: over the 64 MB that any may become


def read(path) -> object:
    suffix = format_of(str(path))
    return read_npz(str(path)) if suffix == ".npz" else read_arrow(str(path), suffix, KeyColumns((), ()))


def parquet(rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"reward": np.zeros(rows, "f4"), "safe": np.zeros(rows, "f4")}), sink)
    return sink.getvalue()


def texts(rows: int, nested: bool = False) -> bytes:
    """One long text in every row, or four times in every row's list, and scores: some kilobytes."""
    long, sink = "w" * 4000, io.BytesIO()
    prompts = (
        pa.array([[long] * 4] * rows) if nested else pa.array([long]).take(pa.array(np.zeros(rows, int)))
    )
    scores = np.tile(np.float32([1, 2, 3]), rows)[:rows]
    pq.write_table(pa.table({"prompt": prompts, "reward": scores, "safe": scores}), sink)
    return sink.getvalue()


def npz(size: int, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """One array that says it has so many bytes; where it is not compressed, it has 64."""
    sink, header = io.BytesIO(), io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (size // 8,)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(sink, "w", compression) as file:
        file.writestr("reward.npy", header.getvalue() + bytes(size if compression else 64))
    return sink.getvalue()


def headed(header: str) -> bytes:
    """One array with any header."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1)
        file.writestr("reward.npy", start + header.encode() + b"\n" + bytes(64))
    return sink.getvalue()


FILES = {
    "a.csv.gz": (
        lambda: gzip.compress(b"a,b\n" + bytes([48]) * MANY, 1),
        "become 64 MB or more, over",
    ),
    "a.parquet": (lambda: parquet(MANY // 16), "become 100 MB or more, over 100 times"),
    "chats.parquet": (lambda: texts(20_000, nested=True), "become 305 MB or more, over 100 times"),
    "a.npz": (lambda: npz(MANY), "become 100 MB or more, over 100 times"),
    "claims.npz": (lambda: npz(2**40, zipfile.ZIP_STORED), "not a readable npz table"),
    "a.jsonl": (lambda: b'{"a":' + b"[" * 300_000 + b"]" * 300_000 + b"}\n", "line 1 is not JSON"),
    "open.jsonl": (lambda: b'{"a":1}\n' + b'{"a":' * 300_000, "line 2 is not JSON"),
    "a.json": (lambda: b"[" * 300_000, "not a readable json table"),
    "key.npz": (lambda: headed("{1: 2, 'a': 3}"), "not a readable npz table"),
    "brackets.npz": (lambda: headed("(" * 9000), "not a readable npz table"),
}


@pytest.mark.parametrize("name", FILES)
def test_refused(name, tmp_path):
    content, said = FILES[name]
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(InputError, match=said):
        read(path)
    assert not fault(read, path)


def test_what_may_become_much_larger_is_read(tmp_path):
    """Labels are two or three bits in Parquet, and eight bytes as numbers."""
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, 2, 400_000).astype("f4") for name in ("reward", "safe")}
    pq.write_table(pa.table(labels), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").num_rows == 400_000
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    assert read(tmp_path / "a.csv.gz").num_rows == 100_000


def test_a_list_of_many_small_objects_takes_little_memory(tmp_path):
    """4 KB of gzip held 1.5 million of them, which took 117 MB at once; here are 5 million lists."""
    row = b'{"a":[' + b"[]," * 999 + b"[]]}"
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[" + (row + b",") * 4999 + row + b"]", 1))
    assert not fault(read, path)


@pytest.mark.parametrize(
    "text, said",
    [
        ('[{"a":1} {"a":2}]', "no comma at character 8"),
        ('[{"a":1},]', "Expecting value"),
        ('[{"a":1}] x', "more behind its list"),
        ('[{"a":1}', "no comma at character 8"),
        ('[,{"a":1}]', "Expecting value"),
        ('[{"a":1},{"a":"x"}]', r"a holds values of several types \(numbers, and a string in row 2\)"),
        ('[1]', "holds more than objects"),
    ],
)  # fmt: skip
def test_a_list_that_is_broken(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "a.json")


def test_a_list_of_objects_over_several_lines(tmp_path):
    (tmp_path / "a.json").write_text(
        '\ufeff [\n {"a": 1,\r\n "b": "x\\ny"},\n {"b": "2025-01-31", "a": 2.5}\n]\n'
    )
    assert read(tmp_path / "a.json").to_pylist() == [{"a": 1, "b": "x\ny"}, {"a": 2.5, "b": "2025-01-31"}]
    (tmp_path / "a.json").write_text(" []")
    assert read(tmp_path / "a.json").num_rows == 0


def test_brackets_in_a_text_are_no_nesting(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt":"' + b"[{" * 5000 + b'","reward":1}\n' * 1)
    assert read(tmp_path / "a.jsonl").num_rows == 1


@pytest.mark.parametrize("stream", [False, True])
def test_one_long_text_in_every_row_stays_one(stream, tmp_path):
    """One prompt of 100,000 rows, which would be 400 MB decoded, read at once and in parts."""
    path = tmp_path / "a.parquet"
    path.write_bytes(texts(100_000))
    flags = DualFlags(scores=str(path), margin=("safe=0",))
    sizes = []

    def solve() -> None:
        found = (
            open_stream(str(path), flags).seen.responses
            if stream
            else read_scores(str(path), flags).mask.sum()
        )
        sizes.append(int(found))

    assert not fault(solve) and sizes == [100_000]


def test_texts_in_dictionaries_are_what_they_are_as_texts(tmp_path):
    """With entries that are unused, equal, missing, or in another order than they appear."""
    entries = pa.array(["unused", "b", "a", "b", None, "7", " 1e3 "])
    indices = pa.array([3, 2, None, 1, 4, 2, 3], pa.int32())
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(indices, entries)] * 2)
    decoded = column.cast(pa.string())
    for found, expected in zip(codes(column), codes(decoded), strict=True):
        np.testing.assert_array_equal(found, expected)
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([5, 6, None, 1]), entries)])
    for found, expected in zip(numbers(column), numbers(column.cast(pa.string())), strict=True):
        np.testing.assert_array_equal(found, expected)
