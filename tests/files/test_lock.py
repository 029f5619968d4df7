"""One writer to a folder at a time, and what becomes of the lock of one that is gone."""

import errno
import json
import os
import shutil
import signal
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
from cann_jax.files import lock
from cann_jax.files.lock import sole_writer
lock.BEAT_SECONDS = 0.2
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
    write(tmp_path, **lock._place(), process=os.getpid(), began=1)
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


def test_an_error_of_a_buckets_client_does_not_end_the_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    real, failures = lock.write_json, [RuntimeError("503"), ConnectionError("reset")]

    def fails_first(path, value):
        if value["beat"] and failures:
            raise failures.pop()
        real(path, value)

    monkeypatch.setattr(lock, "write_json", fails_first)
    with sole_writer(epath.Path(tmp_path)):
        time.sleep(0.8)
        assert json.loads((tmp_path / LOCK).read_text())["beat"] >= 3


def test_a_writer_whose_lock_stays_away_ends(tmp_path, monkeypatch):
    """The start that took over while it was stopped has ended already; for a moment it may be aside only."""
    done, ended, seen = threading.Event(), [], [{"id": "own"}, None, {"id": "own"}, None, None]
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(lock, "_read", lambda path: seen.pop(0))
    monkeypatch.setattr(lock, "_end", lambda path, found: ended.append((found, list(seen))) or done.set())
    lock._beat(epath.Path(tmp_path / LOCK), {"id": "own"}, done)
    assert ended == [({}, [])]


def test_a_writer_that_was_taken_over_ends(tmp_path):
    """As one does that was stopped for longer than the silence that others wait for."""
    paused = start(tmp_path, 60)
    assert paused.stdout.readline() == "writes\n"
    paused.send_signal(signal.SIGSTOP)
    write(tmp_path, id="another's")
    taken = (tmp_path / LOCK).read_text()
    paused.send_signal(signal.SIGCONT)
    _, said = paused.communicate(timeout=60)
    assert paused.returncode == 75 and said.count("\n") == 1
    assert said.startswith(f"error: {tmp_path} was taken over by process 1 on elsewhere, since then, as")
    assert (tmp_path / LOCK).read_text() == taken


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_that_was_just_replaced_is_not_removed(tmp_path, monkeypatch, links):
    """Two starts find the same dead writer; the slower one looks just before the faster one takes over."""
    if not links:
        no_links(monkeypatch, errno.ENOSYS)
    gone, real = {"host": "elsewhere", "id": "dead"}, lock._read
    write(tmp_path, id="faster")
    answers = [gone]
    monkeypatch.setattr(lock, "_read", lambda path: answers.pop() if answers else real(path))
    with pytest.raises(InputError, match="is written by process 1 on elsewhere"):
        lock._take(epath.Path(tmp_path / LOCK), lock._own(), gone)
    assert json.loads((tmp_path / LOCK).read_text())["id"] == "faster"
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


HERE = {"host": "vm", "boot": "b", "namespace": "pid:[1]"}


@pytest.mark.parametrize(
    "found, here, near",
    [
        (HERE, HERE, True),
        ({**HERE, "boot": "c"}, HERE, False),  # two machines of one name
        ({**HERE, "namespace": "pid:[2]"}, HERE, False),  # two containers of one name
        ({**HERE, "host": "other"}, HERE, False),
        ({"host": "vm", "process": 1}, HERE, False),  # of an earlier version
        (
            {"host": "vm", "boot": None, "namespace": None},
            {"host": "vm", "boot": None, "namespace": None},
            False,
        ),
        ({}, HERE, False),
    ],
)
def test_where_a_process_can_be_looked_up(found, here, near):
    assert lock._is_near(found, here) is near


def test_a_lock_of_an_earlier_version_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1)
    write(tmp_path, host=lock.socket.gethostname(), began=1)
    assert lock.writer_of(epath.Path(tmp_path)).startswith("process 1 on")
    with sole_writer(epath.Path(tmp_path)):
        assert "watching it" in (said := capsys.readouterr().out) and "is gone" in said


def in_other_namespace() -> list[str]:
    """Return what starts a command in a PID namespace of its own; skip where that is not allowed."""
    for own in ([], ["--user", "--map-root-user"]):
        words = ["unshare", *own, "--pid", "--fork", "--mount-proc", "--kill-child"]
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("needs leave to unshare a PID namespace")


def test_a_writer_in_another_pid_namespace_lives(tmp_path, monkeypatch):
    """As in a container by the same host name; its number is another process's here, or nobody's."""
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 30)
    command = [*in_other_namespace(), sys.executable, "-c", WRITER, str(tmp_path), "60"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writes\n"
    with pytest.raises(InputError, match="is written by process 1 on"):
        sole_writer(epath.Path(tmp_path)).__enter__()
    other.kill()
    other.communicate()


def no_links(monkeypatch, number: int) -> None:
    def link(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.os, "link", link)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(tmp_path, monkeypatch, number):
    no_links(monkeypatch, number)
    with sole_writer(epath.Path(tmp_path)):
        with pytest.raises(InputError, match=f"is written by process {os.getpid()} on"):
            sole_writer(epath.Path(tmp_path)).__enter__()
        with pytest.raises(InputError, match=f"is written by process {os.getpid()} on"):
            lock._take(epath.Path(tmp_path / LOCK), lock._own(), None)  # both found it free
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    def refuses(name, content):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock, "_make", refuses)
    with pytest.raises(OSError, match="Input/output"):
        sole_writer(epath.Path(tmp_path)).__enter__()
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_is_removed(tmp_path):
    """A name of this version's, and one of an earlier's."""
    (tmp_path / "align" / "checkpoints").mkdir(parents=True)
    left = [tmp_path / "config.json.partial", tmp_path / "align" / "checkpoints" / "a.0123456789ab.partial"]
    for path in left:
        path.write_text("{")
    with sole_writer(epath.Path(tmp_path)):
        assert not any(path.exists() for path in left) and (tmp_path / "align" / "checkpoints").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": 3}'])
def test_a_lock_that_is_none(content, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1)
    (tmp_path / LOCK).write_text(content)
    with sole_writer(epath.Path(tmp_path)):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
