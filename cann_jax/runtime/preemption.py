"""Preemption by SIGTERM: training saves and stops at the end of its step, everything else stops at once.

Several processes must stop at the same place, or those that go on wait for the others: after a training's
step, or after a shard of samples, scores or log-probs. Between such places, as in the solver, they go on.

A preempted run exits with the status EX_TEMPFAIL (75), which launchers take for "start again"; the next start
continues where this one stopped.
"""

import contextlib
import itertools
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


# Numbers of all places that processes pass together: JAX stops them at one that none has reached yet.
_places = itertools.count(1)


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Raise ``Preempted`` on SIGTERM.

    In a run of several processes JAX's own handler stays, which tells all processes the place to stop at.
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
def deferred() -> Iterator[Callable[[], bool]]:
    """Defer SIGTERM; yield a function that says after each step, on all processes alike, whether to stop.

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


def stop_here() -> None:
    """Stop, on all processes alike, if one of several got SIGTERM; all of them pass here, in the same order.

    Raises:
        Preempted: They stop.
    """
    if jax.process_count() > 1 and _reached():
        _stop()


def _stop_after() -> bool:
    return _State.requested if jax.process_count() == 1 else _reached()


def _reached() -> bool:
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(next(_places)))
