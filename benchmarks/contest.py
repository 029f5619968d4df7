"""Contestants in turn: medians, spread and ratios as Markdown, with the machine's name."""

import os
import platform
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


def machine(*packages: str) -> str:
    """Return one line with the processor, its cores and the versions of ``packages``."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    processor = f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Machine: {processor}{' with ' if units else ''}{' and '.join(units)}; {versions}."
