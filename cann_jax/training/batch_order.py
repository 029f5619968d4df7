"""The order in which training takes its items: a function of (seed, step) alone."""

from collections.abc import Callable

import numpy as np

WINDOW = 32  # steps whose items are dealt out together: evens their lengths out and is still a shuffle
Order = Callable[[int], np.ndarray]  # items of an epoch, in turn


def items_of_step(step: int, items: int, size: int, order: Order) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs (size,) and the indices (size,) of the items of a step.

    Steps walk through one order per epoch, as ``order_of_epoch`` gives it; a step may span several epochs.
    """
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), items)
    return epochs, np.array([order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])


def order_of_epoch(
    epoch: int, items: int, size: int, seed: int, lengths: np.ndarray | None = None, together: int = 1
) -> np.ndarray:
    """Return a permutation of the items, drawn from (seed, epoch).

    With ``lengths`` (items,), in tokens, steps of ``size`` items hold rows of similar length, of ``together``
    items each: ``even_rows``.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(items)
    if lengths is None:
        return order
    # Whole steps of this epoch alone: rows would be torn apart where steps began elsewhere.
    first = -(epoch * items) % size
    steps = (items - first) // size
    whole = order[first : first + steps * size].reshape(-1, size)
    for window in np.array_split(whole, max(1, -(-steps // WINDOW))):
        rows = even_rows(window.reshape(-1), lengths, together)
        window[:] = random.permutation(rows.reshape(-1, size))
    return order


def even_rows(items: np.ndarray, lengths: np.ndarray, together: int) -> np.ndarray:
    """Return the items, by length, so that rows of one or two beside each other are of similar length.

    Of two, the longest is followed by the shortest, and so on inwards, and these pairs come by length.
    Lengths of pairs differ far less: of prompts and responses of 16 to 512 tokens, rows of the six best
    widths waste 5 % with two items and 18 % with one.
    """
    ordered = items[np.argsort(lengths[items], kind="stable")]
    if together == 1:
        return ordered
    half = len(items) // 2
    pairs = np.stack([ordered[half:][::-1], ordered[:half]], axis=1)
    return pairs[np.argsort(lengths[pairs].sum(1), kind="stable")].reshape(-1)


def steps_in(epochs: int, items: int, size: int) -> int:
    """Return the number of steps that take every item at least ``epochs`` times."""
    return -(-epochs * items // size)
