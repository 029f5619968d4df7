"""The order in which training takes its items: a function of (seed, step) alone."""

import numpy as np

WINDOW = 32  # steps whose items are sorted by length: saves most of the padding and is still a shuffle


def items_of_step(
    step: int, items: int, size: int, seed: int, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs (size,) and the indices (size,) of the items of a step.

    Steps walk through one permutation per epoch, drawn from (seed, epoch); a step may span several epochs.
    With ``lengths`` (items,), in tokens, the items of a step are of similar length.
    """
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), items)
    orders = {epoch: _order(items, size, seed, epoch, lengths) for epoch in np.unique(epochs)}
    return epochs, np.array([orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)])


def _order(items: int, size: int, seed: int, epoch: int, lengths: np.ndarray | None) -> np.ndarray:
    random = np.random.default_rng([seed, int(epoch)])
    order = random.permutation(items)
    return order if lengths is None else _by_length(order, lengths, size, random)


def _by_length(order: np.ndarray, lengths: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Sort within windows and shuffle the steps of each, or every window would begin with its shortest."""
    windows = []
    for start in range(0, len(order), WINDOW * size):
        window = order[start : start + WINDOW * size]
        window = window[np.argsort(lengths[window], kind="stable")]
        whole = len(window) // size
        steps = random.permutation(window[: whole * size].reshape(whole, size))
        windows += [steps.reshape(-1), window[whole * size :]]
    return np.concatenate(windows)


def steps_in(epochs: int, items: int, size: int) -> int:
    """Return the number of steps that take every item at least ``epochs`` times."""
    return -(-epochs * items // size)
