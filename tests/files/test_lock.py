"""One writer to a folder at a time, and what becomes of the lock of one that is gone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from cann_jax.files import lock
from cann_jax.files.errors import InputError
from cann_jax.files.lock import LOCK, sole_writer

WRITER = """
import sys, time
from etils import epath
from cann_jax.files.lock import sole_writer
with sole_writer(epath.Path(sys.argv[1])):
    print("writes", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(folder, seconds) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write(folder, **fields) -> None:
    (folder / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1, "since": "then"} | fields))


def test_a_second_writer_is_told_of_the_first(tmp_path):
    folder = epath.Path(tmp_path)
    with sole_writer(folder):
        with pytest.raises(InputError, match=rf"is written by process {os.getpid()} on \S+, since 20"):
            sole_writer(folder).__enter__()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())
    with sole_writer(folder):  # free again
        pass


def test_a_killed_writer_is_replaced(tmp_path, capsys):
    killed = start(tmp_path, 60)
    assert killed.stdout.readline() == "writes\n"
    with pytest.raises(InputError, match=f"process {killed.pid} on"):
        sole_writer(epath.Path(tmp_path)).__enter__()
    killed.kill()
    killed.wait()
    with sole_writer(epath.Path(tmp_path)):
        assert f"process {killed.pid} on" in (said := capsys.readouterr().out) and "is gone" in said
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_numbers_of_processes_are_used_again(tmp_path):
    write(tmp_path, host=lock.socket.gethostname(), process=os.getpid(), began=1)
    with sole_writer(epath.Path(tmp_path)):
        pass


def test_of_several_at_once_one_writes(tmp_path):
    started = [start(tmp_path, 3) for _ in range(4)]
    ended = [(each.communicate()[0], each.returncode) for each in started]
    assert sorted(code for _, code in ended) == [0, 1, 1, 1]
    assert [said for said, code in ended if code == 0] == ["writes\n"]
    assert not list(tmp_path.iterdir())


def test_another_machine_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 3)
    write(tmp_path, beat=0)
    beat = threading.Timer(1, write, [tmp_path], {"beat": 1})
    beat.start()
    with pytest.raises(InputError, match="is written by process 1 on elsewhere, since then,"):
        sole_writer(epath.Path(tmp_path)).__enter__()
    with sole_writer(epath.Path(tmp_path)):  # silent from now on
        assert "process 1 on elsewhere, since then, is gone; going on" in capsys.readouterr().out


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    with sole_writer(epath.Path(tmp_path)):
        time.sleep(0.5)
        assert json.loads((tmp_path / LOCK).read_text())["beat"] >= 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": 3}'])
def test_a_lock_that_is_none(content, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1)
    (tmp_path / LOCK).write_text(content)
    with sole_writer(epath.Path(tmp_path)):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
