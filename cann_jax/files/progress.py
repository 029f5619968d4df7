"""Progress of long work: a bar on a terminal, or occasional lines in a log."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_SECONDS = 15  # between lines, where standard error is not a terminal


def track(
    items: Collection[Item],
    label: str,
    *,
    unit: int = 1,
    noun: str = "steps",
    total: int | None = None,
    initial: int = 0,
) -> Iterator[Item]:
    """Iterate over ``items`` and report progress on standard error.

    What is counted is ``noun``, a plural: ``unit`` of them an item, ``initial`` before the first, and
    ``total`` in all, by default as many as the items have.
    """
    total = len(items) * unit if total is None else total
    shown = _bar if sys.stderr.isatty() else _lines
    for index, item in enumerate(items):
        if index == 0:
            report = shown(label, noun, total, initial)
        yield item
        report(min(initial + (index + 1) * unit, total))


def _bar(label: str, noun: str, total: int, initial: int) -> Callable[[int], None]:
    bar = tqdm(total=total, initial=initial, desc=label, unit=f" {noun}", mininterval=0.2, dynamic_ncols=True)

    def report(done: int) -> None:
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report


def _lines(label: str, noun: str, total: int, initial: int) -> Callable[[int], None]:
    """Print lines at most every ``LOG_SECONDS``; work that ends within them prints none."""
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LOG_SECONDS and not (done == total and last > start):
            return
        last = now
        left = (total - done) * (now - start) / (done - initial)
        end = f", about {left:.0f} s left" if done < total else ""
        print(f"{label}: {done} of {total} {noun}{end}", file=sys.stderr, flush=True)

    return report
