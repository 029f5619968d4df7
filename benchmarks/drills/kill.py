"""A process killed at a random moment of one stage, and started again by the same command."""

import random
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import Drilled, processor, run, seconds_of, send_within, start

SIGNALS = (signal.SIGKILL, signal.SIGTERM)  # in turn
EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 75}
BOUND = 300  # seconds, after which a process that was told to end hangs
TO_THE_END = 5  # every so many drills, all behind the stage runs too


class Killed(NamedTuple):
    """A run that was killed: after how many seconds of the stage, its status, and what it said."""

    folder: Path
    after: float
    status: int
    said: str
    processor: float


def kill(drilled: Drilled, stage: str, number: int, seed: int) -> dict[str, Any]:
    """Run drill ``number`` of a stage, and return what happened."""
    draw, sent = random.Random(f"{seed} {stage} {number}"), SIGNALS[number % 2]
    calm, late = drilled.undisturbed(stage), 0
    seconds = calm["seconds"]
    while (killed := _killed(drilled, stage, draw.uniform(0, seconds), sent)) is None:
        late += 1  # the stage had ended before its moment, perhaps because the machine has less to do now
        seconds = min(seconds, seconds_of(drilled.folder / "cut" / drilled.name / stage))
    with processor() as second:
        ended = run(drilled, killed.folder.parent, *drilled.only(stage))
    checked = [stage]
    if number % TO_THE_END == TO_THE_END - 1 and not ended[0]:
        ended, checked = run(drilled, killed.folder.parent), drilled.stages
    differ = differences(killed.folder, drilled.whole, checked) + pages(killed.said)
    if killed.status != EXPECTED[sent]:
        differ.append(f"status {killed.status}")
    if ended[0]:
        differ.append(f"started again: status {ended[0]}: {last_line(ended[1])}")
    repeated = killed.processor + second[0] - calm["stage"] - calm["start"]
    return {
        "sent": sent.name, "after": killed.after, "of": seconds, "late": late,
        "status": killed.status, "said": last_line(killed.said), "lost": max(repeated, 0.0),
        "differed": differ,
    }  # fmt: skip


def _killed(drilled: Drilled, stage: str, after: float, sent: signal.Signals) -> Killed | None:
    """Start a stage and kill it ``after`` seconds into it; None if it ended before."""
    folder = drilled.cut(stage)
    with processor() as spent:
        processes = start(drilled, folder.parent, *drilled.only(stage))
        in_time = send_within(processes, 0, folder / stage, after, sent)
        try:
            said = processes[0].communicate(timeout=BOUND)[1]
        except subprocess.TimeoutExpired:
            processes[0].kill()  # its status is then not the one that is expected
            said = processes[0].communicate()[1]
    status = processes[0].returncode
    return Killed(folder, after, status, said, spent[0]) if in_time and status != 0 else None


def last_line(said: str) -> str:
    """Return the last line of what was said, or nothing."""
    return said.strip().splitlines()[-1] if said.strip() else ""


def pages(said: str) -> list[str]:
    """Return a complaint if more was said than one line and those of progress."""
    lines = [line for line in said.splitlines() if " of " not in line.partition(": ")[2]]
    return [f"{len(lines)} lines were printed: {lines[0]}"] if len(lines) > 1 else []
