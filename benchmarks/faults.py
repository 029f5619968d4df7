"""Drills: kills, lost and hanging processes, full disks; a run must lose next to nothing and end the same.

    python -m benchmarks.faults [--drills kill:align kill lost hang disk …] [--times N] [--work FOLDER]

Each finished drill is a line of ``results/faults.jsonl`` and is not repeated, by one seed; one that was
skipped is tried again. The page is written after each.
"""

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from etils import epath

from benchmarks.contest import machine
from benchmarks.drills.disk import fill
from benchmarks.drills.kill import kill
from benchmarks.drills.page import page
from benchmarks.drills.processes import BOUND, lose
from benchmarks.drills.runs import HEARTBEAT, Drilled, drilled, version
from cann_jax.files.lock import sole_writer
from tests.builders import ROOT

RESULTS = ROOT / "benchmarks/results"
TIMES = {"kill": 20, "lost": 10, "disk": 10, "hang": 5}

Drill = Callable[[int, int], dict[str, Any]]  # by its number and the seed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drills", nargs="*", default=list(TIMES), help="names, or what they begin with")
    parser.add_argument("--times", type=int, help="how often each; a few, to rehearse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cann_jax_faults")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of faults.jsonl and faults.md")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    work = given.work / version()
    work.mkdir(parents=True, exist_ok=True)
    with sole_writer(epath.Path(work)):  # two at once would cut each other's runs
        all_drills = drills(drilled(work))
        if strange := unknown(given.drills, all_drills):
            parser.error(f"--drills: there is no {strange}; there are {', '.join((*TIMES, *all_drills))}")
        run_drills(all_drills, given)


def unknown(asked: Iterable[str], all_drills: Iterable[str]) -> str:
    """Return the names that are no drill's and no kind's, with commas; nothing if there are none."""
    return ", ".join(repr(name) for name in asked if name not in (*TIMES, *all_drills))


def run_drills(all_drills: dict[str, Drill], given: argparse.Namespace) -> None:
    """Run the drills that are asked for and have not been finished, and print what happened."""
    rows = read_rows(given.results / "faults.jsonl")
    for name, drill in all_drills.items():
        kind = name.partition(":")[0]
        if not any(wanted in (name, kind) for wanted in given.drills):
            continue
        for number in range(TIMES[kind] if given.times is None else given.times):
            key = {"drill": name, "number": number, "seed": given.seed}
            if any("skipped" not in row and key == key_of(row) for row in rows):
                continue
            began = time.monotonic()
            row = key | drill(number, given.seed)
            rows.append(row)
            write_results(given.results, rows, list(all_drills))
            print(f"{name} {number}: {time.monotonic() - began:.0f} s: {told(row)}", flush=True)


def key_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a row from others: of two of one key the later counts."""
    return {name: row[name] for name in ("drill", "number", "seed")}


def drills(runs: dict[str, Drilled]) -> dict[str, Drill]:
    """Return all drills by name; a stage that several runs have is drilled in the first of them."""
    found: dict[str, Drill] = {}
    for name in ("calibrated", "prealigned", "stepwise", "score_model"):
        for stage in runs[name].stages:
            found.setdefault(f"kill:{stage}", partial(kill, runs[name], stage))
    found["lost"] = partial(lose, runs["together"], "lost", signal.SIGKILL)
    found["disk"] = partial(fill, runs["calibrated"])
    found["hang"] = partial(lose, runs["together"], "hang", signal.SIGSTOP)
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the drills that have been finished before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_results(folder: Path, rows: list[dict[str, Any]], order: list[str]) -> None:
    """Add the last row to the file, and write the page of all."""
    with (folder / "faults.jsonl").open("a") as file:
        file.write(json.dumps(rows[-1]) + "\n")
    latest = {tuple(key_of(row).values()): row for row in rows}.values()
    by_drill = {name: [row for row in latest if row["drill"] == name] for name in order}
    done = {name: found for name, found in by_drill.items() if found}
    text = page(done, machine("jax", "jaxlib", "orbax-checkpoint"), BOUND, HEARTBEAT)
    (folder / "faults.md").write_text(text)


def told(row: dict[str, Any]) -> str:
    """Return a drill's outcome in a line."""
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    what = "; ".join(row["differed"]) or "nothing differed"
    return f"{row['sent']}, status {row['status']}, lost {row['lost']:.1f} s, {what}; said: {row['said']!r}"


if __name__ == "__main__":
    main()
