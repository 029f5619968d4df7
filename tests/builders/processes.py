"""Programs of their own, one process or several that find each other, on any number of host devices."""

import os
import socket
import subprocess
import sys
from importlib.metadata import version

from tests.builders import ROOT

_started: list[subprocess.Popen] = []


def quick_flags() -> str:
    """XLA's flags that compile quickly. It ends the process at one that it does not know."""
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if tuple(map(int, version("jaxlib").split(".")[:3])) < (0, 11, 1):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """This process's variables, for a program on so many host devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **variables}


def start(arguments: list[str], devices: int = 1, **variables: str) -> subprocess.Popen:
    """``python ARGUMENTS…`` from the repository's root."""
    command, given = [sys.executable, *arguments], environment(devices, **variables)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    _started.append(process := subprocess.Popen(command, cwd=ROOT, env=given, text=True, **pipes))
    return process


def start_together(
    arguments: list[str], devices: int = 1, count: int = 2, of: int | None = None
) -> list[subprocess.Popen]:
    """``count`` processes with so many devices each, of a run of ``of`` processes (these are all)."""
    given = {"CANN_JAX_COORDINATOR": f"localhost:{free_port()}", "CANN_JAX_PROCESSES": str(of or count)}
    return [start(arguments, devices, **given, CANN_JAX_PROCESS=str(index)) for index in range(count)]


def finish(*processes: subprocess.Popen, status: int = 0) -> list[tuple[str, str]]:
    """What each of them said on its two streams, once all have ended with this status."""
    said = [process.communicate(timeout=900) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == status, errors[-3000:]
    return said


def end_all() -> None:
    """Kill what a test that failed has left: four that spun took half of the machine for half an hour."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
