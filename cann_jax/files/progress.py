"""Progress of long work: one bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 15  # between lines where standard error is no terminal


def track(
    items: Collection,
    label: str,
    *,
    unit: int = 1,
    noun: str = "steps",
    total: int | None = None,
    initial: int = 0,
) -> Iterator[Any]:
    """Iterate, and tell on standard error how far it is.

    Args:
        items: What to go through.
        label: What is going on.
        unit: How many nouns an item stands for.
        noun: What is counted.
        total: Nouns in all; None takes it from ``items``.
        initial: Nouns done before.
    """
    total = len(items) * unit if total is None else total
    shown = _bar if sys.stderr.isatty() else _lines
    for index, item in enumerate(items):
        if index == 0:
            tell = shown(label, noun, total, initial)
        yield item
        tell(min(initial + (index + 1) * unit, total))


def _bar(label: str, noun: str, total: int, initial: int):
    bar = tqdm(total=total, initial=initial, desc=label, unit=f" {noun}", mininterval=0.2, dynamic_ncols=True)

    def tell(done: int) -> None:
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return tell


def _lines(label: str, noun: str, total: int, initial: int):
    """Work that ends within ``LOG_SECONDS`` leaves no line."""
    start = last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LOG_SECONDS and not (done == total and last > start):
            return
        last = now
        left = (total - done) * (now - start) / (done - initial)
        end = f", about {left:.0f} s left" if done < total else ""
        print(f"{label}: {done} of {total} {noun}{end}", file=sys.stderr, flush=True)

    return tell
