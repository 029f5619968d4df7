"""A kill by the kernel for want of memory ends the job; a preempted process is killed by the same signal."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT


@pytest.fixture
def small_memory():
    """The file of a control group of 64 MB, to which a process that writes its number belongs."""
    for folder, limit in (("memory/", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path(f"/sys/fs/cgroup/{folder}cann_jax_{os.getpid()}")
        try:
            group.mkdir()
            (group / limit).write_text("64M")
        except OSError:  # another version, or no right
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        group.rmdir()
        return
    pytest.skip("no control group can be made here")


@pytest.mark.parametrize("launcher", ["local.sh 1", "gpu_node.sh", "slurm_task.sh"])
def test_what_the_kernel_kills_for_want_of_memory_is_not_started_again(launcher, small_memory, tmp_path):
    """It was requeued, or started again, a hundred times."""
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/bash\necho x >>{tmp_path}/starts\nexec {sys.executable} -c 'bytearray(2 << 30)'\n"
    )
    program.chmod(0o755)
    words = "" if launcher == "gpu_node.sh" else program
    line = f"echo $$ >{small_memory} && exec bash launch/{launcher} {words}"
    given = os.environ | {
        "PYTHON": str(program),
        "RESTART_SECONDS": "0",
        "FAILURES": str(tmp_path / "failures"),
    }
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=given, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 3 and "the kernel killed the run: memory is exhausted" in done.stderr
    assert (tmp_path / "starts").read_text().count("x") == 1
    if launcher == "slurm_task.sh":
        assert (tmp_path / "failures").read_text().startswith("3 the kernel killed the run")
