"""Measure what a user waits for before anything is computed: imports, compilation, a tiny run.

    python benchmarks/startup.py [--rounds 3]

Every command is a process of its own. "Cold" begins with an empty cache of compiled programs, "warm" with
what the command itself left in it.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contest import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/startup.md"
PROGRAMS = re.compile(r"of it (\d+) s to compile (\d+) programs")
HELP = {
    "dual --help": ("-m", "cann_jax.dual", "--help"),
    "train --help": ("-m", "cann_jax.train", "--help"),
    "reward --help": ("-m", "cann_jax.reward", "--help"),
    "import cann_jax": ("-c", "import cann_jax"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    parts = ["# Before anything is computed", "    python benchmarks/startup.py", machine("jax", "flax")]
    lines = [f"| command | s, median of {given.rounds} |", "|---|---:|"]
    for name, arguments in HELP.items():
        times = [timed(arguments)[0] for _ in range(given.rounds + 1)][1:]  # the first fills the disk's cache
        lines.append(f"| `{name}` | {statistics.median(times):.1f} |")
    parts.append("\n".join(lines))
    lines = ["| command | cold, s | warm, s | compiled, cold |", "|---|---:|---:|---|"]
    for name, took, compiled in cold_and_warm(given.rounds):
        lines.append(f"| {name} | {took[0]:.1f} | {statistics.median(took[1:]):.1f} | {compiled} |")
        print(lines[-1], flush=True)
    parts.append("\n".join(lines))
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(RESULTS.read_text())


def cold_and_warm(rounds: int) -> Iterator[tuple[str, list[float], str]]:
    """Yield name, seconds (the first cold), and what was compiled at first, of each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = str(folder / "scores.parquet")
        make = "from cann_jax.analysis.example import example_table; from pyarrow.parquet import write_table"
        timed(("-c", f"{make}; write_table(example_table(1000, 32), {table!r})"))
        asked = ("--scores", table, "--margin", "safe=0.5", "--margin", "polite=0.1")
        asked = (*asked, "--out", str(folder / "dual"))
        yield "dual, 1,000 × 32", *repeated(("-m", "cann_jax.dual", *asked), folder, rounds)
        config = tiny(folder)
        train = ("-m", "cann_jax.train", "--config", config)
        yield "train --dry_run, tiny model", *repeated((*train, "--dry_run"), folder, rounds)
        yield "train, tiny model, every stage", *repeated(train, folder, rounds, fresh="--run_dir")


def tiny(folder: Path) -> str:
    """Write a tiny random model, and the configuration of a run on it with every stage of the quickstart."""
    sys.path.insert(0, str(ROOT))
    from tests.builders.models import save_tiny
    from tests.builders.runs import calibrated_changes, write_config

    return write_config(folder, save_tiny(folder / "model"), **calibrated_changes(folder))


def repeated(
    arguments: tuple[str, ...], folder: Path, rounds: int, fresh: str | None = None
) -> tuple[list[float], str]:
    """Time a command with an empty cache and then ``rounds`` times with a full one; ``fresh`` names a flag
    that takes a new folder each time."""
    cache = tempfile.mkdtemp(dir=folder)
    times, said = [], ""
    for turn in range(rounds + 1):
        own = (fresh, tempfile.mkdtemp(dir=folder)) if fresh else ()
        took, output = timed((*arguments, *own), cache)
        times.append(took)
        if not turn:
            found = [(int(seconds), int(count)) for seconds, count in PROGRAMS.findall(output)]
            seconds, count = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0)
            said = f"{count} programs, {seconds} s" if found else "–"
    return times, said


def timed(arguments: tuple[str, ...], cache: str | None = None) -> tuple[float, str]:
    """Return the seconds of a Python process and what it printed.

    Raises:
        SystemExit: It failed.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    took = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{ended.stderr[-2000:]}")
    return took, ended.stdout


if __name__ == "__main__":
    main()
