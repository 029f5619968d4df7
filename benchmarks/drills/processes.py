"""One of two processes killed, or stopped as on a host that hangs; both are started again."""

import random
import signal
import subprocess
import time
from typing import Any

from benchmarks.drills.kill import last_line, pages
from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import HEARTBEAT, Drilled, processor, run, send_within, start

BOUND = 3 * HEARTBEAT  # seconds that the other process may go on; machines have other things to do
ABSENT = 75


def lose(drilled: Drilled, drill: str, sent: signal.Signals, number: int, seed: int) -> dict[str, Any]:
    """Run drill ``number``, in one stage after the other, and return what happened."""
    draw, stage = random.Random(f"{seed} {drill} {number}"), drilled.stages[number % len(drilled.stages)]
    calm = drilled.undisturbed(stage)
    while True:
        lost, after, folder = draw.randrange(2), draw.uniform(0, calm["seconds"]), drilled.cut(stage)
        with processor() as first:
            processes = start(drilled, folder.parent, *drilled.only(stage))
            in_time = send_within(processes, lost, folder / stage, after, sent)
            waited, said = _outlived(processes, lost)
        if in_time:
            break
    with processor() as second:
        ended = run(drilled, folder.parent, *drilled.only(stage))
    status = processes[1 - lost].returncode
    differ, page = differences(folder, drilled.whole, [stage]), pages(said)
    if lost != 0 or sent != signal.SIGKILL:  # otherwise JAX's client may be first: it lost its service
        differ += page
    if waited > BOUND:
        differ.append(f"waited more than {BOUND} s")
    if status != ABSENT or not last_line(said).startswith(f"error: process {lost} "):
        differ.append(f"status {status}: {last_line(said)}")
    if ended[0]:
        differ.append(f"started again: status {ended[0]}: {last_line(ended[1])}")
    repeated = first[0] + second[0] - calm["stage"] - calm["start"]
    return {
        "sent": sent.name, "stage": stage, "process": lost, "after": after, "of": calm["seconds"],
        "status": status, "said": last_line(said), "waited": waited, "lost": max(repeated, 0.0),
        "differed": differ, "page": bool(page),
    }  # fmt: skip


def _outlived(processes: list[subprocess.Popen[str]], lost: int) -> tuple[float, str]:
    """Return how long the other process went on, and what it said; end both."""
    since, other = time.monotonic(), processes[1 - lost]
    try:
        said = other.communicate(timeout=BOUND)[1]
        waited = time.monotonic() - since
    except subprocess.TimeoutExpired:
        other.kill()
        said, waited = other.communicate()[1], float("inf")
    processes[lost].kill()
    processes[lost].communicate()
    return waited, said
