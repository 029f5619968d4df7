"""One writer to a folder at a time: a file that names it, by host, process and time; also in buckets."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from cann_jax.files.atomic import remove_partials, write_json
from cann_jax.files.errors import InputError, Preempted
from cann_jax.files.paths import is_remote

LOCK = "writer.json"
BEAT_SECONDS = 15  # between two signs of life
# Without a sign for as long, a writer that cannot be looked up, as on another machine, counts as gone.
SILENCE_SECONDS = 60
SETTLE_SECONDS = 1  # in a bucket: two that begin at once have both written by then, and the later one stays
# What must agree for a process to be found by its number: containers and machines may share a host's name.
PLACE = ("host", "boot", "namespace")

Lock = dict[str, Any]


@contextlib.contextmanager
def sole_writer(folder: epath.Path) -> Iterator[None]:
    """Hold the lock of a folder, which exists; take it over from a writer that is gone.

    Half files that killed writers left below the folder are removed.

    Raises:
        InputError: Another process writes there; the message names it.
    """
    path, own = folder / LOCK, _own()
    found = _wait_for_holder(path)
    _take(path, own, found)
    remove_partials(folder)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, own, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        with contextlib.suppress(Exception):  # a lock that stays is taken over, and a bucket's errors vary
            if (_read(path) or {}).get("id") == own["id"]:
                path.unlink(missing_ok=True)


def writer_of(folder: epath.Path) -> str | None:
    """Return who writes to a folder, in words; None where nobody does, by what is known here."""
    found = _read(folder / LOCK)
    if not found or (_is_near(found, _place()) and not _lives(found)):
        return None
    return _whose(found).rstrip(",")


def _own() -> Lock:
    """Return what this process writes into a lock."""
    return _place() | {
        "process": os.getpid(),
        "began": _began(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "id": uuid.uuid4().hex,
        "beat": 0,
    }


def _place() -> Lock:
    """Return where this process can be found by its number; None for what the system does not tell."""
    boot = namespace = None
    with contextlib.suppress(OSError):
        # After `unshare --pid` alone, /proc is another namespace's, with other processes by these numbers.
        if os.readlink("/proc/self") == str(os.getpid()):
            namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def _is_near(found: Lock, here: Lock) -> bool:
    """Return whether the process that took the lock can be looked up from ``here``."""
    return all(here[key] is not None and found.get(key) == here[key] for key in PLACE)


def _take(path: epath.Path, own: Lock, gone: Lock | None) -> None:
    """Write the lock, which is free or held by one that is ``gone``.

    Raises:
        InputError: Another process was faster.
    """
    if is_remote(path):
        write_json(path, own)
        time.sleep(SETTLE_SECONDS)  # stores have no file that only one can make
    else:
        name, new = os.fspath(path), f"{os.fspath(path)}-{own['id']}"
        try:
            if gone is not None and _read(path) == gone:
                _remove(name, new, gone)
            write_json(new, own)
            _make(name, new)
        finally:
            with contextlib.suppress(OSError):  # a read-only one says so of a file that is not there, too
                os.remove(new)
    found = _read(path)
    if found is None or found.get("id") != own["id"]:
        raise InputError(_taken(path, found or {}))


def _make(name: str, content: str) -> None:
    """Make the lock with the content of that file, unless there is one."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(content, name)  # it is whole at once
        except FileExistsError:
            raise
        except OSError:  # such as ENOSYS, EPERM, EOPNOTSUPP: gcsfuse and some of SMB have no hard links
            with open(name, "xb") as file:
                file.write(Path(content).read_bytes())
            time.sleep(SETTLE_SECONDS)  # a bucket that is mounted may let two make it


def _remove(name: str, aside: str, gone: Lock) -> None:
    """Remove the lock of a writer that is gone, but not that of another start, which was faster."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(name, aside)  # of several at once one does so, and then nobody changes what it looks at
        if _read(epath.Path(aside)) != gone:
            _make(name, aside)
        os.remove(aside)


def _wait_for_holder(path: epath.Path) -> Lock | None:
    """Return a holder that is gone, or None; one that cannot be looked up is watched for signs of life.

    Raises:
        InputError: The holder lives.
    """
    found = _read(path)
    if found is None:
        return None
    if _is_near(found, _place()):
        if _lives(found):
            raise InputError(_taken(path, found))
    else:
        print(f"{_whose(found)} may still write here; watching it for {SILENCE_SECONDS} s", flush=True)
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1)
            if (now := _read(path)) is None:
                return None
            if now != found:
                raise InputError(_taken(path, now))
    print(f"{_whose(found)} is gone; going on in its place", flush=True)
    return found


def _beat(path: epath.Path, own: Lock, done: threading.Event) -> None:
    """Give signs of life until it is ``done``; end the process if another start has taken over."""
    beat = missed = 0
    while not done.wait(BEAT_SECONDS):
        beat += 1
        # A full disk is the run's to report; a bucket's client, whose errors share no base, may recover.
        with contextlib.suppress(Exception):
            found = _read(path)
            # One that is gone may be looked at by another start, aside; one that stays away was taken over by
            # a start that has ended.
            missed = missed + 1 if found is None else 0
            if missed == 2 or (found and found.get("id") != own["id"]):
                _end(path, found or {})
            if found:  # what cannot be read now may be another's
                write_json(path, own | {"beat": beat})


def _end(path: epath.Path, found: Lock) -> None:
    """End this process, which was stopped for so long that another start took its lock over."""
    whose = _whose(found) if found else "another start, which has ended,"
    text = (
        f"error: {path.parent} was taken over by {whose} as this process gave no sign of life for "
        f"{SILENCE_SECONDS} s; wait for it, and start again to continue\n"
    )
    os.write(2, text.encode())
    os._exit(Preempted.exit_status)  # the main thread would go on to write


def _read(path: epath.Path) -> Lock | None:
    """Return what the lock holds, which is nothing in a file that no writer left; None where it is free."""
    try:
        return dict(json.loads(path.read_bytes())) if path.exists() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return {}


def _lives(found: Lock) -> bool:
    """Return whether the process by that number is the one that took the lock: numbers are used again."""
    process = found.get("process")
    return isinstance(process, int) and _began(process) is not None and _began(process) == found.get("began")


def _began(process: int) -> int | None:
    """Return when a process began, in ticks since the machine did; None where there is no such process."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _whose(found: Lock) -> str:
    return f"process {found.get('process')} on {found.get('host')}, since {found.get('since')},"


def _taken(path: epath.Path, found: Lock) -> str:
    return (
        f"{path.parent} is written by {_whose(found)} and two would mix their files; wait for it or stop it, "
        f"or set another name (if it is none of yours, delete {path.name})"
    )
