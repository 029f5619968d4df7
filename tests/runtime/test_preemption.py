"""SIGTERM: when it ends what runs, and that it is never lost."""

import asyncio
import math
import os
import signal

import pytest

from cann_jax.files.errors import Preempted
from cann_jax.runtime import preemption
from cann_jax.runtime.preemption import deferred, preemptible
from tests.builders.processes import finish, start_together


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


def test_sigterm_leaves_an_event_loop():
    """A callback's exception is logged and the loop goes on, but for SystemExit: Orbax's waited for ever."""
    loop = asyncio.new_event_loop()
    loop.call_soon(terminate)
    loop.call_later(5, loop.stop)
    with pytest.raises(Preempted), preemptible():
        loop.run_forever()
    loop.close()


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
            assert not stop_after()
            terminate()
            done = "all that is deferred"
        pytest.fail("went on")
    assert done


def test_an_error_of_the_training_comes_before_sigterm():
    with pytest.raises(ValueError, match="a bug"), preemptible(), deferred():
        terminate()
        raise ValueError("a bug")


PROGRAM = """
import sys, time
from cann_jax.command_line.errors import run_command
from cann_jax.config.mesh import DistributedConfig
from cann_jax.runtime import distributed, preemption
def begun(here):
    if here:
        print("begun", file=sys.stderr, flush=True)
        time.sleep(2)
def main(argv):
    with distributed.joined(DistributedConfig(timeout_seconds=60)), preemption.preemptible():
        for steps in 30, 10:  # each training counts its own from 0
            begun((steps, argv[0]) == (10, "between"))
            with preemption.deferred() as stop_after:
                for step in range(steps):
                    distributed.agreed([True])
                    if stop_after():
                        raise preemption.Preempted(f"after step {step} of {steps}")
        for shard in range(200):
            begun((shard, argv[0]) == (5, "shards"))
            with distributed.writing_shard(shard):
                time.sleep(0.03 * (1 + distributed.is_first()))
        distributed.barrier("all scored")
sys.exit(run_command(main))
"""


@pytest.mark.parametrize(
    "where, said", [("between", "after step 0 of 10"), ("shards", "SIGTERM: finished shards")]
)
def test_of_several_processes_all_stop_at_the_same_place(where, said):
    """One of them gets SIGTERM: between two trainings, or in shards, where none waits for others."""
    processes = start_together(["-c", PROGRAM, where])
    for process in processes:
        assert process.stderr.readline() == "begun\n"
    processes[1].send_signal(signal.SIGTERM)
    for _, errors in finish(*processes, status=75):
        assert errors.splitlines()[-1].startswith(f"stopped: {said}")
