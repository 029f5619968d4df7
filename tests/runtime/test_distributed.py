"""How processes find each other, and what is said when they do not."""

import signal
import socket
import time

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.config.mesh import DistributedConfig
from cann_jax.files.errors import InputError
from cann_jax.runtime.distributed import plan
from tests.builders.processes import finish, free_port, start, start_together
from tests.builders.runs import write_config

AGAIN = "see its log, and start all processes again to continue\n"
GIVEN = {"CANN_JAX_COORDINATOR": "a:1", "CANN_JAX_PROCESSES": "4", "CANN_JAX_PROCESS": "2"}


def test_flags_come_before_variables_and_these_before_what_jax_finds():
    flags = DistributedConfig(coordinator="b:2", processes=2, process=1)
    assert plan(flags, GIVEN) == flags
    assert plan(DistributedConfig(), {**GIVEN, "SLURM_NTASKS": "8"}) == DistributedConfig("a:1", 4, 2)
    for detected in (
        {"SLURM_NTASKS": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"CANN_JAX_DISTRIBUTED": "auto"},
    ):
        assert plan(DistributedConfig(), detected) == DistributedConfig()


def test_alone():
    for environment in ({}, {"SLURM_NTASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
        assert plan(DistributedConfig(), environment) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"CANN_JAX_PROCESS": "two"}, "CANN_JAX_PROCESS is 'two', not a number"),
        (None, "CANN_JAX_PROCESS is missing"),
    ],
)
def test_incomplete_variables(change, message):
    given = {k: v for k, v in GIVEN.items() if k != "CANN_JAX_PROCESS"} | (change or {})
    with pytest.raises(InputError, match=message):
        plan(DistributedConfig(), given)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--distributed.coordinator", "a:1"], "distributed.processes is missing; give all of"),
        (
            ["--distributed.timeout_seconds", "0"],
            "timeout_seconds is 0; it must be an integer of at least 1",
        ),
        (["--mesh.tensor", "0"], "mesh.tensor is 0; it must be an integer: 1 or more"),
    ],
)
def test_configuration(flags, message, tiny_folder, tmp_path):
    with pytest.raises(InputError, match=message):
        parse_run(["--config", write_config(tmp_path, tiny_folder), *flags])


def test_unreachable_coordinator_is_one_line_with_its_address(tiny_folder, tmp_path):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("localhost", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        given = {"coordinator": address, "processes": 2, "process": 1, "timeout_seconds": 2}
        flags = [text for key, value in given.items() for text in (f"--distributed.{key}", str(value))]
        config = write_config(tmp_path, tiny_folder)
        ((_, said),) = finish(start(["-m", "cann_jax.train", "--config", config, *flags]), status=75)
    assert f"distributed.coordinator {address} cannot be reached within 2 s" in said
    assert said.count("\n") == 1


PROGRAM = """
import os, sys, time
from cann_jax.runtime import distributed
from cann_jax.command_line.errors import run_command
from cann_jax.config.mesh import DistributedConfig
from cann_jax.files import progress
from cann_jax.files.errors import InputError
me = os.environ["CANN_JAX_PROCESS"]
def main(argv):
    limits = {"timeout_seconds": int(argv[1]), "heartbeat_timeout_seconds": int((argv[2:] or ["100"])[0])}
    with distributed.joined(DistributedConfig(**limits)):
        if argv[0] == "differ":
            distributed.check_alike({"seed": me})
        if me == "1" and argv[0] == "fails":
            raise InputError("of process 1 alone")
        if me == "1" and argv[0] == "crashes":
            raise KeyError("a bug")
        if argv[0] == "computes":
            print("begun", file=sys.stderr, flush=True)
            while distributed.agreed([True]):
                pass
        if me == "1" and argv[0] == "sleeps":
            time.sleep(30)
        if argv[0] == "tells":
            progress.LOG_SECONDS = 0
            for index in progress.track(range(3), "sampling"):
                with distributed.writing_shard(index):
                    print(f"shard {index}")
        distributed.barrier("middle")
sys.exit(run_command(main))
"""


def test_processes_of_different_configurations():
    for _, said in finish(*start_together(["-c", PROGRAM, "differ", "60"]), status=2):
        assert said.startswith(
            "error: configuration of process 1 differs from that of process 0; give every process"
        )
        assert said.count("\n") == 1


def test_progress_is_told_once():
    """Whichever process writes the shard at hand."""
    first, second = finish(*start_together(["-c", PROGRAM, "tells", "60"]))
    assert [line.split(",")[0] for line in first[1].splitlines()] == [
        f"sampling: {done} of 3 steps" for done in (1, 2, 3)
    ]
    assert "shard 2" in first[0] and "shard" not in second[0] and second[1] == ""


def test_a_barrier_says_who_is_missing():
    first, second = start_together(["-c", PROGRAM, "sleeps", "5"])
    ((_, said),) = finish(first, status=75)
    assert said.startswith("error: process 0 waited up to 5 s at 'middle'; missing: process 1; see the log")
    assert said.count("\n") == 1
    second.communicate()
    assert second.returncode != 0


def test_a_slurm_task_without_its_fellows_does_not_wait_for_ever():
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    slurm |= {"SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": str(free_port())}
    program = PROGRAM.replace('os.environ["CANN_JAX_PROCESS"]', '"0"')
    ((_, said),) = finish(start(["-c", program, "joins", "3"], **slurm), status=75)
    assert said.startswith("error: not all processes joined within 3 s at the coordinator that JAX")


def test_no_cluster_where_one_was_promised():
    program = PROGRAM.replace('os.environ["CANN_JAX_PROCESS"]', '"0"')
    ((_, said),) = finish(start(["-c", program, "joins", "9"], CANN_JAX_DISTRIBUTED="auto"), status=2)
    assert said.startswith(
        "error: JAX detects no other processes here (coordinator_address should be defined"
    )


@pytest.mark.parametrize(
    "how, status, said", [("fails", 2, "error: of process 1 alone\n"), ("crashes", 1, "KeyError: 'a bug'\n")]
)
def test_one_that_fails_alone_does_not_wait_and_ends_the_others(how, status, said):
    first, second = start_together(["-c", PROGRAM, how, "3600"])
    ((_, of_second),) = finish(second, status=status)
    assert of_second.endswith(said)
    ((_, of_first),) = finish(first, status=75)
    assert of_first == f"error: process 1 failed; {AGAIN}"


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize(
    "by, how", [(signal.SIGKILL, "is gone"), (signal.SIGSTOP, "has not answered for 4 s")]
)
def test_a_process_that_is_lost_ends_the_others_in_a_collective(by, how, lost):
    processes = start_together(["-c", PROGRAM, "computes", "3600", "4"])
    for process in processes:
        assert process.stderr.readline() == "begun\n"
    time.sleep(0.5)
    processes[lost].send_signal(by)
    try:
        ((_, said),) = finish(processes[1 - lost], status=75)
    finally:
        processes[lost].kill()
    line = f"error: process {lost} {how}; {AGAIN}"
    # With process 0 its coordination service is killed, and JAX's client may be first to print a page.
    assert said.endswith(line) if (by, lost) == (signal.SIGKILL, 0) else said == line
    processes[lost].communicate()


def test_the_roll_call_says_who_is_missing():
    for _, said in finish(*start_together(["-c", PROGRAM, "joins", "8"], of=4), status=75):
        assert said.startswith("error: not all processes joined within 8 s at localhost:")
        assert "missing: process 2, 3; start all of them" in said and said.count("\n") == 1
