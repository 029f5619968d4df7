"""The page of results: a row a drill."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

TEXT = """\
# Faults at random moments

    python -m benchmarks.faults

Tiny random Llamas go through every stage that a run can have; each stage is disturbed in copies of a finished
run. After a fault the same command is given again, and every output of the stage is compared with the
undisturbed run's, byte for byte and weights by value; after every fifth kill all that follows is run and
compared too, results and verdict included.

{rows}

* `kill:STAGE`: SIGKILL and SIGTERM in turn, at moments drawn uniformly from the stage's undisturbed time.
* `lost`: one of two processes is killed; the other must end within {bound} s with a line that names it.
* `hang`: one of two processes is stopped (SIGSTOP); `distributed.heartbeat_timeout_seconds` is {heartbeat}.
* `disk`: the run's disk is full at a random write; then it is made larger.
* Lost: processor seconds beyond those of an undisturbed run and of one more start that finds its work done.
  Loading the model and reading compiled programs once more are in it.

{trouble}

What the drills found before, mended since: a SIGTERM that came while a callback of an event loop of Orbax's
ran was logged by the loop, and the process waited for ever (number 13 of `kill:evaluate`;
`test_sigterm_leaves_an_event_loop`).

{machine}
"""


def page(results: dict[str, list[dict[str, Any]]], machine: str, bound: int, heartbeat: int) -> str:
    """Return the page of all drills that have been run."""
    head = (
        "| drill | times | faults: status, and after how many seconds the rest ended | differed "
        "| lost: median, most (s) | printed |"
    )
    rows = [head, "|---|---:|---|---:|---:|---|", *(_row(drill, rows) for drill, rows in results.items())]
    trouble = [
        f"* {drill}, number {row['number']}, seed {row['seed']}: {'; '.join(row['differed'])}"
        for drill, rows in results.items() for row in rows if row.get("differed")
    ]  # fmt: skip
    said = "What differed:\n\n" + "\n".join(trouble) if trouble else "Nothing differed."
    return TEXT.format(rows="\n".join(rows), machine=machine, bound=bound, heartbeat=heartbeat, trouble=said)


def _row(drill: str, rows: Sequence[dict[str, Any]]) -> str:
    done = [row for row in rows if "skipped" not in row]
    if not done:
        return f"| {drill} | 0 | | | | skipped: {rows[0]['skipped']} |"
    faults = Counter(f"{row['sent']}: {row['status']}" for row in done)
    what = ", ".join(f"{count} × {name}" for name, count in sorted(faults.items()))
    if waits := [row["waited"] for row in done if "waited" in row]:
        what += f"; {statistics.median(waits):.1f} s, at most {max(waits):.1f}"
    lost = [row["lost"] for row in done]
    printed = Counter(_pattern(row["said"]) or "nothing" for row in done)
    lines = "; ".join(f"{text} ({count})" for text, count in printed.most_common(3))
    more = f"; {len(printed) - 3} others" if len(printed) > 3 else ""
    if page := sum(row.get("page", False) for row in done):
        more += f"; {page} times after a page of JAX's client, whose coordination service had gone"
    differed = sum(bool(row["differed"]) for row in done)
    return (
        f"| `{drill}` | {len(done)} | {what} | {differed or 'none'} "
        f"| {statistics.median(lost):.1f}, {max(lost):.1f} | {lines}{more} |"
    )


def _pattern(line: str) -> str:
    """Return a line without what differs from drill to drill: numbers and paths."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"/\S+/", "…/", line)).replace("|", "\\|")
