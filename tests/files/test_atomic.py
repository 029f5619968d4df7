"""Files are written whole or not at all, and what cannot be read is one line."""

import errno
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from etils import epath

from cann_jax.config.run import DualConfig
from cann_jax.files import atomic
from cann_jax.files.atomic import (
    read_array,
    read_json,
    read_table,
    remove_partials,
    write_array,
    write_bytes_atomic,
    write_json,
    write_table,
    writing,
)
from cann_jax.files.errors import InputError, ResourceError
from cann_jax.files.hashes import files_below, fingerprint_file, fingerprint_json


def test_json_round_trip(tmp_path):
    value = {"β": [1.5, None], "dual": DualConfig(), "n": np.int64(3), "a": np.ones(2), "path": tmp_path}
    write_json(tmp_path / "deep" / "a.json", value)
    back = read_json(tmp_path / "deep" / "a.json")
    assert back["β"] == [1.5, None] and back["dual"]["beta"] == 0.1 and back["a"] == [1.0, 1.0]
    assert (back["path"], back["n"]) == (str(tmp_path), 3) and os.listdir(tmp_path / "deep") == ["a.json"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1


def test_table_round_trip(tmp_path):
    table = pa.table({"prompt_id": ["a", "b"], "ids": [[1, 2], [3]], "score": [0.5, None]})
    write_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet").equals(table)


@pytest.mark.parametrize(
    "array", [np.arange(24, dtype=np.float16).reshape(2, 3, 4).T, np.zeros((0, 3)), np.float32(7)]
)
def test_array_round_trip(tmp_path, array):
    write_array(tmp_path / "a.npy", array)
    for found in (read_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and found.shape == array.shape


def header(**changes) -> bytes:
    file = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (2,), **changes}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1",
        np.lib.format.magic(1, 0),
        np.lib.format.magic(2, 0) + header()[8:],
        header() + bytes(4),
        header(shape=(1 << 50,)) + bytes(8),
        header(descr="|O") + bytes(16),
    ],
)
def test_corrupt_array_names_file_and_mend(tmp_path, data):
    """Nothing is allocated by the numbers of a header, and no object is unpickled."""
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.npy is corrupt .*; delete it and start again") as caught:
        read_array(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 50, -4])
def test_corrupt_table_names_file_and_mend(tmp_path, keep):
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"a": list(range(1000))}))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"t\.parquet is corrupt .*; delete it and start again") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b'{"a": ', b"\xff"])
def test_corrupt_json_names_file_and_mend(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.json is corrupt .*; delete it and start again"):
        read_json(tmp_path / "a.json")


def test_missing_files(tmp_path):
    for read in (read_array, read_json, read_table):
        with pytest.raises(InputError, match="none is missing"):
            read(tmp_path / "none")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_full_device(tmp_path, monkeypatch):
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic, "_partial_of", lambda path: f"{path}.partial")
    (tmp_path / "shard.parquet.partial").symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"disk full while writing .*shard\.parquet; free space and start again"
    ):
        write_bytes_atomic(path, b"x" * 100_000)
    assert os.listdir(tmp_path) == ["shard.parquet"] and path.read_bytes() == b"old"


def within(monkeypatch, act) -> None:
    """Have ``act`` happen once, while the next file is written: when it is whole, under another name."""
    real, acts = os.fsync, [act]

    def fsync(number):
        real(number)
        if acts:
            acts.pop()()

    monkeypatch.setattr(atomic.os, "fsync", fsync)


def test_two_processes_write_the_same_file(tmp_path, monkeypatch):
    """As a report does beside a training that ends."""
    path, seen = tmp_path / "report.html", []
    within(monkeypatch, lambda: write_bytes_atomic(path, b"theirs") or seen.append(path.read_bytes()))
    write_bytes_atomic(path, b"ours")
    assert seen == [b"theirs"] and path.read_bytes() == b"ours" and os.listdir(tmp_path) == ["report.html"]


def test_a_file_that_is_cleared_while_it_is_written(tmp_path, monkeypatch):
    """By a start, which removes what killed writers left."""
    within(monkeypatch, lambda: remove_partials(tmp_path))
    write_bytes_atomic(tmp_path / "report.html", b"ours")
    assert (tmp_path / "report.html").read_bytes() == b"ours" and os.listdir(tmp_path) == ["report.html"]


def test_a_file_that_is_not_yet_whole_is_no_output(tmp_path, monkeypatch):
    seen = []
    within(monkeypatch, lambda: seen.extend((files_below(epath.Path(tmp_path)), os.listdir(tmp_path / "a"))))
    write_bytes_atomic(tmp_path / "a" / "shard", b"")
    assert seen[0] == [] and len(seen[1]) == 1 and files_below(epath.Path(tmp_path)) == ["a/shard"]


@pytest.mark.disk("256k")
def test_full_disk_keeps_finished_shards(small_disk):
    write_bytes_atomic(small_disk / "shard-0", b"x" * 150_000)
    with pytest.raises(InputError, match=r"disk full .*shard-1; free space .*what is finished is kept"):
        write_bytes_atomic(small_disk / "shard-1", b"x" * 150_000)
    assert os.listdir(small_disk) == ["shard-0"]
    (small_disk / "shard-0").unlink()
    write_bytes_atomic(small_disk / "shard-1", b"x" * 150_000)
    assert (small_disk / "shard-1").stat().st_size == 150_000


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*; make its folder writable"):
        write_bytes_atomic(tmp_path / "file" / "a", b"")


def test_writing_tells_a_full_disk_for_any_writer():
    with pytest.raises(InputError, match="disk full while writing checkpoint"), writing("checkpoint"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(KeyError), writing("checkpoint"):
        raise KeyError("a bug passes")


def test_fingerprint_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert fingerprint_file(tmp_path / "a") == known
    with pytest.raises(InputError, match="none cannot be read"):
        fingerprint_file(tmp_path / "none")


def test_fingerprint_of_a_folder_sees_names_and_contents(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"abc")
    before = fingerprint_file(tmp_path)
    assert fingerprint_file(tmp_path) == before
    (tmp_path / "sub" / "a").write_bytes(b"abd")
    changed = fingerprint_file(tmp_path)
    (tmp_path / "sub" / "a").write_bytes(b"abc")
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert len({before, changed, fingerprint_file(tmp_path)}) == 3


def test_fingerprint_json_ignores_order_only():
    assert fingerprint_json({"a": 1, "b": (2,)}) == fingerprint_json({"b": [2], "a": 1})
    assert fingerprint_json({"a": 1}) != fingerprint_json({"a": 2})


WRITER = """
import sys
from cann_jax.files.atomic import write_bytes_atomic
size = 8_000_000
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        write_bytes_atomic(sys.argv[1], byte * size)
        print("written", flush=True)
"""


def test_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for delay in (0.0, 0.003, 0.011):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert [writer.stdout.readline() for _ in range(3)][-1] == "written\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        data = path.read_bytes()
        assert len(data) == 8_000_000 and data.count(data[:1]) == len(data)


@pytest.mark.parametrize(
    "reason", ["No space left on device", "Disk quota exceeded", "Read-only file system"]
)
def test_a_failed_write_in_the_words_of_another_library(reason):
    """Such as safetensors' own error, which is no OSError."""
    with pytest.raises(ResourceError, match="model") as caught, writing("model"):
        raise RuntimeError(f"Error while serializing: I/O error: {reason} (os error 28)")
    assert caught.value.exit_status == 3
    with pytest.raises(RuntimeError, match="else"), writing("model"):
        raise RuntimeError("something else")
