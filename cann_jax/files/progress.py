"""Progress of long work: a bar on a terminal, or occasional lines in a log."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from tqdm import tqdm

from cann_jax.files.atomic import writes_here

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
    """Iterate over ``items`` and report progress on standard error, on the process of a run that writes.

    The time left is by the items after the first, which compiles what all of them run.
    What is counted is ``noun``, a plural: ``unit`` of them an item, ``initial`` before the first, and
    ``total`` in all, by default as many as the items have.
    """
    if not writes_here.get():
        yield from items
        return
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
        if bar.n == initial:  # as if the first had been there before: tqdm does not count that in its rate
            bar.initial = bar.n = bar.last_print_n = done
            bar.last_print_t = time.time()
            bar.refresh()
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report


def _lines(label: str, noun: str, total: int, initial: int) -> Callable[[int], None]:
    """Print lines at most every ``LOG_SECONDS``; work that ends within them prints none."""
    start = last = time.monotonic()
    first: tuple[int, float] | None = None  # how many were done, and when, behind the first item

    def report(done: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = first or (done, now)
        if now - last < LOG_SECONDS and not (done == total and last > start):
            return
        last = now
        end = ""
        if first[0] < done < total:
            end = f", about {(total - done) * (now - first[1]) / (done - first[0]):.0f} s left"
        print(f"{label}: {done} of {total} {noun}{end}", file=sys.stderr, flush=True)

    return report
