"""A run in several processes: how they join, agree, wait for each other, and divide the writing of files.

In a run of one process, all of this does nothing.
"""

import contextlib
import itertools
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from cann_jax.config.mesh import DistributedConfig
from cann_jax.files.atomic import is_whole, write_bytes_atomic, writes_here
from cann_jax.files.errors import AbsentError, InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.runtime import preemption, rollcall, watch

# Variables that launchers set on each process, where JAX cannot detect them.
VARIABLES = {
    "coordinator": "CANN_JAX_COORDINATOR",
    "processes": "CANN_JAX_PROCESSES",
    "process": "CANN_JAX_PROCESS",
}
DETECT = "CANN_JAX_DISTRIBUTED"  # "auto": a pod that JAX can detect (TPU VM, GKE, Slurm)

_patience: ContextVar[int] = ContextVar("timeout_seconds", default=300)
_barriers = itertools.count()


def plan(config: DistributedConfig, environment: Mapping[str, str]) -> DistributedConfig | None:
    """Return how this process joins the others, without a coordinator where JAX detects them; None if alone.

    Flags take precedence, then the variables that ``launch/`` sets, then what JAX detects of Slurm, of a TPU
    VM or of GKE.
    """
    if config.coordinator is not None:
        return config
    if any(key in environment for key in VARIABLES.values()):
        return replace(config, **{name: _variable(name, environment) for name in VARIABLES})
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    return config if environment.get(DETECT) == "auto" or tasks > 1 or hosts > 1 else None


def _variable(name: str, environment: Mapping[str, str]) -> Any:
    key = VARIABLES[name]
    value = environment.get(key)
    if value is not None and name == "coordinator":
        return value
    if value is None or not value.isdigit():
        problem = "is missing" if value is None else f"is {value!r}, not a number"
        raise InputError(f"environment variable {key} {problem}; start with a script in launch/")
    return int(value)


@contextlib.contextmanager
def joined(config: DistributedConfig) -> Iterator[None]:
    """Join the other processes, if there are any, before JAX looks for devices.

    Raises:
        InputError: The coordinator cannot be reached, or not all processes join, within ``timeout_seconds``.
    """
    found = plan(config, os.environ)
    token = _patience.set(config.timeout_seconds)
    try:
        if found is not None:
            _join(found)
        with contextlib.ExitStack() as stack:
            if jax.process_count() > 1:
                stack.enter_context(watch.watched(config.heartbeat_timeout_seconds))
            stack.enter_context(_writing(is_first()))
            if not is_first():  # standard output comes from one process; errors, on stderr, from each
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        _patience.reset(token)


def _join(found: DistributedConfig) -> None:
    patience = found.timeout_seconds
    if found.coordinator is not None:
        assert found.processes is not None and found.process is not None  # given or refused together
        rollcall.call(found.coordinator, found.processes, found.process, patience)
    try:
        with _watched(patience):
            jax.distributed.initialize(
                found.coordinator,
                found.processes,
                found.process,
                # Otherwise Slurm's variables would restrict this process to one device, whatever the flags.
                cluster_detection_method=None if found.coordinator is None else "deactivate",
                initialization_timeout=2 * patience,
                # The watch is first: JAX's client ends a process by SIGABRT, with a stack trace.
                heartbeat_timeout_seconds=2 * found.heartbeat_timeout_seconds,
                shutdown_timeout_seconds=patience,
            )
    except ValueError as error:
        raise InputError(
            f"JAX detects no other processes here ({error}); start with a script in launch/, or set "
            "distributed.coordinator, .processes and .process"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AbsentError(f"not all processes joined ({reason}); start all of them") from None


@contextlib.contextmanager
def _watched(patience: int) -> Iterator[None]:
    """Exit with one line after ``patience`` seconds, where JAX's client would abort with a stack trace."""

    def stop() -> None:
        sys.stderr.write(
            f"error: not all processes joined within {patience} s at the coordinator that JAX "
            "detected; start all of them, or raise distributed.timeout_seconds\n"
        )
        os._exit(AbsentError.exit_status)

    timer = threading.Timer(patience, stop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def left(status: int) -> int:
    """Exit from a process that failed without waiting for the others; return the status if there are none.

    JAX's own shutdown waits for all processes, and those that did not fail wait for this one. Those that
    failed too get a moment to report it: when process 0 exits, JAX ends the others.
    """
    if not jax.distributed.is_initialized():
        return status
    watch.failed()
    with contextlib.suppress(Exception):
        _wait("leaving", watch.LEAVE_SECONDS)
        time.sleep(1 if is_first() else 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def crashed(error: Exception) -> None:
    """Report an unexpected error of one process among several, and exit; do nothing in a run of one.

    If it is a collective's, another process may be lost, and the watch is given the time to say which. If all
    come here, none is.
    """
    if not (patience := watch.patience()):
        return
    of_collective = re.match(r"[A-Z_]+: ", str(error))  # XLA's errors begin with a status
    with contextlib.suppress(Exception):
        _wait("crashed", patience + watch.BEAT_SECONDS if of_collective else 2 * watch.BEAT_SECONDS)
    traceback.print_exception(error)
    left(1)


@contextlib.contextmanager
def _writing(here: bool) -> Iterator[None]:
    token = writes_here.set(here)
    try:
        yield
    finally:
        writes_here.reset(token)


def is_first() -> bool:
    """Return whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def writing_shard(index: int) -> Iterator[None]:
    """Let the process that owns shard ``index`` write; the files are the same for any number of processes.

    All processes pass every shard, in the same order, and may be stopped behind it (``preemption``).
    """
    with _writing(index % jax.process_count() == jax.process_index()):
        yield
    preemption.stop_here()


def barrier(name: str) -> None:
    """Wait for all processes; raise AbsentError after ``distributed.timeout_seconds``, naming the missing."""
    if jax.process_count() == 1:
        return
    patience = _patience.get()
    try:
        _wait(f"{name} {next(_barriers)}", patience)
    except Exception as error:  # the runtime's own type, which is not public
        raise AbsentError(
            f"process {jax.process_index()} waited up to {patience} s at {name!r}{_missing(error)}; "
            "see the log of the missing process, or raise distributed.timeout_seconds"
        ) from None


def _wait(key: str, seconds: int) -> None:
    from orbax.checkpoint import multihost  # 2 s to import

    everyone = set(range(jax.process_count()))
    multihost.get_barrier_sync_fn(processes=everyone)(key=key, timeout_ms=1000 * seconds)


def _missing(error: Exception) -> str:
    """Name the processes that are missing or lost by the runtime's message."""
    listed = re.search(r"(?:task names|stopped sending heartbeats)[^\n]*:\n((?:\d+\n)+)", str(error))
    lost = re.findall(r"[Tt]ask (\d+) heartbeat timeout", str(error))
    absent = sorted(set(map(int, listed[1].split() if listed else lost)))
    return f"; missing: process {', '.join(map(str, absent))}" if absent else ""


def kept_shards(shards: Sequence[Sequence[epath.Path]]) -> list[bool]:
    """Return which shards an earlier start left whole, all of each one's files, as process 0 finds them."""
    first = is_first()  # the others need not read what they would not be asked about
    return agreed([first and all([is_whole(path) for path in files]) for files in shards])


def agreed(flags: Sequence[bool]) -> list[bool]:
    """Return process 0's flags on every process: two may see a file system at different moments."""
    if jax.process_count() == 1 or not flags:
        return list(flags)
    from jax.experimental import multihost_utils

    return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.array(flags))]


def check_alike(config: Any) -> None:
    """Check that all processes have the same configuration and code.

    Raises:
        InputError: Some differ from process 0; it is raised on every process and says which.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    barrier("start")
    package = Path(__file__).parent.parent
    code = {str(path.relative_to(package)): fingerprint_file(path) for path in package.rglob("*.py")}
    for what, value in (("configuration", config), ("code", code)):
        own = np.frombuffer(bytes.fromhex(fingerprint_json(value)), np.uint8)
        every = multihost_utils.process_allgather(own)
        odd = [index for index, other in enumerate(every) if not np.array_equal(other, every[0])]
        if odd:
            raise InputError(
                f"{what} of process {', '.join(map(str, odd))} differs from that of process 0; "
                f"give every process the same {'file and flags' if what == 'configuration' else 'version'}"
            )


def check_writable(path: Any) -> None:
    """Raise InputError unless this process can write a file beside ``path``."""
    if jax.process_count() == 1:
        return
    probe = path.parent / f"{path.name}-{jax.process_index()}"
    with _writing(True):
        write_bytes_atomic(probe, b"")
    probe.unlink()


def check_shared(path: Any) -> None:
    """Raise InputError unless this process sees the file that process 0 wrote."""
    barrier(f"{path} written")
    if not path.exists():
        raise InputError(
            f"process {jax.process_index()} does not see {path}; set run_dir to a folder that all share (gs://…)"
        )
