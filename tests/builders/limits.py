"""What a refusal may take: 200 MB and one line, and no time that a hang would take.

A second of its own processor time is what is promised; ``HANG=1`` asks for it. On a machine with other work a
refusal of a tenth of a second has taken 1.03, so that the tests only tell a hang.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError

SECONDS, BYTES = float(os.environ.get("HANG", "30")), 200 << 20


def resident(kind: str) -> int:
    """The process's memory, bytes: VmRSS is what it has, and VmHWM the most since that was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def fault(function: Callable[..., Any], *arguments: Any) -> str:
    """What is wrong with how a function ends; empty if it returns, or refuses in one line soon enough."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets VmHWM
    before, begun, said = resident("VmRSS"), time.thread_time(), ""
    try:
        function(*arguments)
    except InputError as error:
        said = str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    seconds, grown = time.thread_time() - begun, resident("VmHWM") - before
    long = "\n" in said or len(said) > 900
    return (
        f"{seconds:.1f} s, {grown >> 20} MB: {said[:999]}"
        if long or seconds > SECONDS or grown > BYTES
        else ""
    )


def refuse_to_limit_memory(folder: Path, monkeypatch: Any) -> None:
    """Have the Python processes that start from now on refuse to limit their memory, as macOS does."""
    (folder / "sitecustomize.py").write_text(
        "import resource\n"
        "limit = resource.setrlimit\n"
        "def setrlimit(which, limits):\n"
        "    if which == resource.RLIMIT_AS:\n"
        "        raise ValueError('current limit exceeds maximum limit')\n"
        "    limit(which, limits)\n"
        "resource.setrlimit = setrlimit\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
