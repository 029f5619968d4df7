"""Progress of long work: one bar on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

LOG_SECONDS = 15  # between lines where standard error is no terminal


def track(
    items: Iterable, label: str, *, unit: int = 1, noun: str = "steps", total: int | None = None, initial: int = 0
) -> Iterator:
    """Iterate with a progress bar.

    Args:
        items: What to go through.
        label: What is going on.
        unit: How many nouns an item stands for.
        noun: What is counted.
        total: Nouns in all; None takes it from ``items``.
        initial: Nouns done before.
    """
    total = total if total is not None else len(items) * unit  # type: ignore[arg-type]
    interval = 0.2 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(total=total, initial=initial, desc=label, unit=f" {noun}", mininterval=interval, dynamic_ncols=True) as bar:
        for item in items:
            yield item
            bar.update(min(unit, total - bar.n))
