"""What the scripts here measure with: contestants in turn, medians, the machine's name.

Only of Python's own library, for peers run in environments of their own.
"""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

Contestants = Mapping[str, Callable[[], int]]  # each does the work once and returns how many units that was


def contest(contestants: Contestants, rounds: int) -> dict[str, list[float]]:
    """Return units a second of each round, after one that compiles and warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            speed = run() / (time.perf_counter() - start)
            print(f"round {turn}: {name}: {speed:.1f}", flush=True)
            if turn:
                speeds[name].append(speed)
    return speeds


def table(title: str, speeds: Mapping[str, list[float]], unit: str, peers: Callable[[str], bool]) -> str:
    """Return a Markdown table; ratios are to the fastest of those that ``peers`` tells by name."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    best = max((name for name in medians if peers(name)), key=lambda name: medians[name])
    lines = [f"| {title} | {unit} | least and most | against {best} |", "|---|---:|---|---:|"]
    for name, values in speeds.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        lines.append(f"| {name} | {medians[name]:.0f} | {spread} | {medians[name] / medians[best]:.2f}× |")
    return "\n".join(lines)


def product_rate(multiply: Callable[[], object], rows: int, inner: int, columns: int) -> float:
    """Return the operations a second of a matrix product of these sizes: the best of twenty."""
    times = []
    for _ in range(21):  # the first may compile
        began = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - began)
    return 2 * rows * inner * columns / min(times)


def peak_gb() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts KiB


def processor() -> str:
    """Return the number of cores and the processor's name."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"


def machine(*packages: str) -> str:
    """Return one line with the processor, its cores and the versions of ``packages``."""
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    units = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Machine: {processor()}{' with ' if units else ''}{' and '.join(units)}; {versions}."


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
