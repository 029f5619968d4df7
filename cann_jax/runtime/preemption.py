"""SIGTERM on a normal day: training saves and stops at the end of its step, everything else stops at once.

A run that was stopped ends with the status EX_TEMPFAIL (75), which launchers take for "start again"; the next
start goes on where this one stopped.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from cann_jax.files.errors import Preempted


class _State:
    deferred = False
    asked = False


_state = _State()


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Within it, SIGTERM raises ``Preempted``.

    In a run of several processes JAX's own handler stays, which tells all processes of one step to stop at;
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


def _on_signal(*_) -> None:
    _state.asked = True
    if not _state.deferred:
        raise Preempted("SIGTERM: finished shards and checkpoints are kept; start again to go on")


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[int], bool]]:
    """Within it, SIGTERM waits; yields ``asked(step)``, whether to stop after this step, alike everywhere."""
    _state.deferred, _state.asked = True, False
    try:
        yield _asked
    finally:
        _state.deferred = False


def _asked(step: int) -> bool:
    if jax.process_count() == 1:
        return _state.asked
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
