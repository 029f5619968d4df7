"""Which responses of which prompts a training step sees: a function of (seed, step) alone."""

import numpy as np

WINDOW = 32  # steps whose items are sorted by length: enough to save most padding, and still a shuffle


def prompts_of_step(
    step: int, prompts: int, size: int, seed: int, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (size,) and prompt indices (size,) of a step.

    Steps walk through one permutation an epoch, drawn from (seed, epoch); a step may span several epochs.

    Args:
        step: The step.
        prompts: How many there are.
        size: Of a step.
        seed: Of the order.
        lengths: (prompts,) tokens; where given, the items of a step are of similar length.
    """
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), prompts)
    orders = {epoch: _order(prompts, size, seed, epoch, lengths) for epoch in np.unique(epochs)}
    return epochs, np.array([orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)])


def _order(prompts: int, size: int, seed: int, epoch: int, lengths: np.ndarray | None) -> np.ndarray:
    random = np.random.default_rng([seed, int(epoch)])
    order = random.permutation(prompts)
    return order if lengths is None else _by_length(order, lengths, size, random)


def _by_length(order: np.ndarray, lengths: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Sort within windows, and shuffle the steps of each: else every window would begin with its shortest."""
    windows = []
    for start in range(0, len(order), WINDOW * size):
        window = order[start : start + WINDOW * size]
        window = window[np.argsort(lengths[window], kind="stable")]
        whole = len(window) // size
        steps = random.permutation(window[: whole * size].reshape(whole, size))
        windows += [steps.reshape(-1), window[whole * size :]]
    return np.concatenate(windows)


def steps_in(epochs: int, prompts: int, size: int) -> int:
    """Steps that see every prompt at least ``epochs`` times."""
    return -(-epochs * prompts // size)


def extreme_responses(pseudo_reward: np.ndarray, size: int) -> np.ndarray:
    """(N, size) indices of each prompt's highest and lowest pseudo-rewards, half and half, in order of rank.

    A fit shrinks towards what it can explain; the ends of the scale carry more of it than the middle
    (docs/quickstart_study.md measures by how much).
    """
    order = np.argsort(-pseudo_reward, axis=1, kind="stable")
    high = -(-size // 2)
    return np.concatenate([order[:, :high], order[:, pseudo_reward.shape[1] - (size - high) :]], axis=1)


def random_responses(prompt: int, responses: int, size: int, seed: int, epoch: int) -> np.ndarray:
    """(size,) indices without replacement, a function of (seed, epoch, prompt)."""
    return np.random.default_rng([seed, int(epoch), int(prompt), 1]).permutation(responses)[:size]


def drawn_labels(
    probabilities: np.ndarray, prompts: np.ndarray, responses: np.ndarray, seed: int
) -> np.ndarray:
    """One Bernoulli draw of each label, the same whenever the pair comes back.

    Args:
        probabilities: (B, R, R) P(i ≻ j).
        prompts: (B,) indices of the prompts.
        responses: (B, R) indices of the responses.
        seed: The draw is a function of (seed, prompt, pair of responses).

    Returns:
        (B, R, R) 0 or 1, where (i, j) and (j, i) are one draw; the diagonal is as it was.
    """
    labels = np.array(probabilities)
    for row, (prompt, chosen) in enumerate(zip(prompts, responses, strict=True)):
        low, high = np.minimum.outer(chosen, chosen), np.maximum.outer(chosen, chosen)
        # One stream a prompt, and in it a place a pair, whatever else is in the group.
        places = high * (high + 1) // 2 + low
        draw = np.random.default_rng([seed, int(prompt), 2]).random(places.max() + 1)[places]
        # Of two responses, the first in the table wins where the draw is below its probability.
        first = chosen[:, None] < chosen[None, :]
        wins = np.where(first, draw < probabilities[row], draw >= probabilities[row].T)
        labels[row] = np.where(np.eye(len(chosen), dtype=bool), labels[row], wins)
    return labels
