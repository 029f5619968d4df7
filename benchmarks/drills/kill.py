"""A process killed at a random moment of one stage, and started again by the same command."""

import random
import signal
from typing import Any

from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import Drilled, processor, run, send_within, start

SIGNALS = (signal.SIGKILL, signal.SIGTERM)  # in turn
EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 75}
TO_THE_END = 5  # every so many drills, all behind the stage runs too


def kill(drilled: Drilled, stage: str, number: int, seed: int) -> dict[str, Any]:
    """Run drill ``number`` of a stage, and return what happened."""
    draw, sent = random.Random(f"{seed} {stage} {number}"), SIGNALS[number % 2]
    calm = drilled.undisturbed(stage)
    while True:
        after, folder = draw.uniform(0, calm["seconds"]), drilled.cut(stage)
        with processor() as first:
            processes = start(drilled, folder.parent, "--stages", stage)
            in_time = send_within(processes, 0, folder / stage, after, sent)
            said = processes[0].communicate()[1]
        status = processes[0].returncode
        if in_time and status != 0:  # otherwise the stage has ended before its moment
            break
    with processor() as second:
        ended = run(drilled, folder.parent, "--stages", stage)
    checked = [stage]
    if number % TO_THE_END == TO_THE_END - 1 and not ended[0]:
        ended, checked = run(drilled, folder.parent), drilled.stages
    differ = differences(folder, drilled.whole, checked)
    if status != EXPECTED[sent]:
        differ.append(f"status {status}")
    if ended[0]:
        differ.append(f"started again: status {ended[0]}")
    repeated = first[0] + second[0] - calm["stage"] - calm["start"]
    return {
        "sent": sent.name, "after": after, "of": calm["seconds"], "status": status, "said": last_line(said),
        "lost": max(repeated, 0.0), "differed": differ + pages(said),
    }  # fmt: skip


def last_line(said: str) -> str:
    """Return the last line of what was said, or nothing."""
    return said.strip().splitlines()[-1] if said.strip() else ""


def pages(said: str) -> list[str]:
    """Return a complaint if more was said than one line and those of progress."""
    lines = [line for line in said.splitlines() if " of " not in line.partition(": ")[2]]
    return [f"{len(lines)} lines were printed: {lines[0]}"] if len(lines) > 1 else []
