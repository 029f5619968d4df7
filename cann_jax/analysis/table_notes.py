"""What a reader of results should know of how a table was read."""

from collections.abc import Iterable


def table_notes(cost: Iterable[str], dropped: int, repeated: int) -> list[str]:
    """Return one sentence each; ``dropped`` and ``repeated`` as in ``RawTable``."""
    notes = [f"{name}: less is better; everything about it here is about -{name}." for name in cost]
    if dropped:
        notes.append(f"{dropped} rows or responses lack something and were left out (--drop_missing).")
    if repeated:
        notes.append(
            f"{repeated} responses repeat another of their prompt word for word; each counts as a draw."
        )
    return notes
