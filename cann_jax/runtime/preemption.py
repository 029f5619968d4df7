"""Preemption by SIGTERM: training saves and stops at the end of its step, everything else stops at once.

A preempted run exits with the status EX_TEMPFAIL (75), which launchers take for "start again"; the next start
continues where this one stopped.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from cann_jax.files.errors import Preempted

TOGETHER_SECONDS = 1  # two signals within them are one


class _State:  # of the process, as signals are
    deferred = False
    requested = False
    stopped = -math.inf  # when SIGTERM last ended something


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Raise ``Preempted`` on SIGTERM.

    In a run of several processes JAX's own handler stays, which tells all processes the step to stop at;
    outside training nothing is lost by the SIGKILL that follows.
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_signal(*_: object) -> None:
    _State.requested = True
    # A launcher passes on what its whole group got: the second must not interrupt what the first one ends.
    if not _State.deferred and time.monotonic() - _State.stopped > TOGETHER_SECONDS:
        _stop()


def _stop() -> NoReturn:
    _State.stopped = time.monotonic()
    raise Preempted("SIGTERM: finished shards and checkpoints are kept; start again to continue")


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[int], bool]]:
    """Defer SIGTERM; yield a function that says, on all processes alike, whether to stop after a step.

    Raises:
        Preempted: SIGTERM came after the last time that the function was asked.
    """
    _State.deferred, _State.requested = True, False
    try:
        yield _stop_after
    finally:
        _State.deferred = False
    if _State.requested:
        _stop()


def _stop_after(step: int) -> bool:
    if jax.process_count() == 1:
        return _State.requested
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))
