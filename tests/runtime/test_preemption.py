"""SIGTERM: when it ends what runs, and that it is never lost."""

import math
import os
import signal

import pytest

from cann_jax.files.errors import Preempted
from cann_jax.runtime import preemption
from cann_jax.runtime.preemption import deferred, preemptible


@pytest.fixture(autouse=True)
def long_after(monkeypatch):
    """As if no test before had ended something by SIGTERM."""
    monkeypatch.setattr(preemption._State, "stopped", -math.inf)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_at_once_what_does_not_defer_it():
    with pytest.raises(Preempted, match="start again to continue"), preemptible():
        terminate()
        pytest.fail("went on")


def test_a_second_sigterm_at_once_does_not_interrupt_what_the_first_ends():
    ended = []
    with pytest.raises(Preempted), preemptible():
        try:
            terminate()
        finally:
            terminate()
            ended.append("locks and files")
    assert ended


def test_sigterm_after_the_last_step_ends_the_training():
    with pytest.raises(Preempted, match="start again to continue"), preemptible():
        with deferred() as stop_after:
            assert not stop_after(0)
            terminate()
            done = "all that is deferred"
        pytest.fail("went on")
    assert done


def test_an_error_of_the_training_comes_before_sigterm():
    with pytest.raises(ValueError, match="a bug"), preemptible(), deferred():
        terminate()
        raise ValueError("a bug")
