"""How processes find each other, and what is said when they do not."""

import os
import socket
import subprocess
import sys

import pytest

from cann_jax.cli import parse_run
from cann_jax.config_mesh import DistributedConfig
from cann_jax.distributed import Plan, plan
from cann_jax.errors import InputError
from tests.stages.setting import ROOT, command, write_config

GIVEN = {"CANN_JAX_COORDINATOR": "a:1", "CANN_JAX_PROCESSES": "4", "CANN_JAX_PROCESS": "2"}


def test_flags_come_before_variables_and_these_before_what_jax_finds():
    flags = DistributedConfig(coordinator="b:2", processes=2, process=1)
    assert plan(flags, GIVEN) == Plan("b:2", 2, 1)
    assert plan(DistributedConfig(), {**GIVEN, "SLURM_NTASKS": "8"}) == Plan("a:1", 4, 2)
    for detected in (
        {"SLURM_NTASKS": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"CANN_JAX_DISTRIBUTED": "auto"},
    ):
        assert plan(DistributedConfig(), detected) == Plan(None, None, None)


def test_alone():
    for environment in ({}, {"SLURM_NTASKS": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
        assert plan(DistributedConfig(), environment) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"CANN_JAX_PROCESS": "two"}, "CANN_JAX_PROCESS is 'two', no number"),
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
        (["--distributed.timeout_seconds", "0"], "distributed.timeout_seconds is 0; use 1 or more"),
        (["--mesh.tensor", "0"], "mesh.tensor is 0; use 1 or more"),
    ],
)
def test_configuration(flags, message, tiny_folder, tmp_path):
    with pytest.raises(InputError, match=message):
        parse_run(["--config", write_config(tmp_path, tiny_folder), *flags])


def test_unreachable_coordinator_is_one_line_with_its_address(tiny_folder, tmp_path):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("localhost", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        flags = (
            "--distributed.coordinator",
            address,
            "--distributed.processes",
            "2",
            "--distributed.process",
            "1",
        )
        run = [*command(write_config(tmp_path, tiny_folder), *flags), "--distributed.timeout_seconds", "2"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"distributed.coordinator {address} cannot be reached within 2 s" in done.stderr
    assert done.stderr.count("\n") == 1


DIFFER = """
import sys
from cann_jax import distributed
from cann_jax.cli import run_command
from cann_jax.config_mesh import DistributedConfig
def main(argv):
    with distributed.joined(DistributedConfig(timeout_seconds=60)):
        distributed.check_alike({"seed": argv[0]})
        distributed.barrier("end")
sys.exit(run_command(main))
"""


def test_processes_of_different_configurations():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    workers = []
    for index in range(2):
        variables = {**GIVEN, "CANN_JAX_COORDINATOR": address, "CANN_JAX_PROCESSES": "2"}
        environment = {**os.environ, **variables, "CANN_JAX_PROCESS": str(index), "JAX_PLATFORMS": "cpu"}
        arguments = [sys.executable, "-c", DIFFER, str(index)]
        workers.append(
            subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 2
        assert "error: configuration of process 1 is not that of process 0; give every process" in said
