"""Which responses of which prompts a training step sees: a function of (seed, step) alone."""

import numpy as np


def prompts_of_step(step: int, prompts: int, size: int, seed: int) -> np.ndarray:
    """(size,) prompt indices of a step.

    Steps walk through one permutation an epoch, drawn from (seed, epoch); a step may span two epochs.
    """
    places = np.arange(step * size, (step + 1) * size)
    orders = {epoch: _order(prompts, seed, epoch) for epoch in np.unique(places // prompts)}
    return np.array([orders[place // prompts][place % prompts] for place in places])


def _order(prompts: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, int(epoch)]).permutation(prompts)


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


def random_responses(prompts: int, responses: int, size: int, seed: int, epoch: int) -> np.ndarray:
    """(N, size) indices without replacement, drawn anew for each (seed, epoch)."""
    draws = np.random.default_rng([seed, epoch, 1]).random((prompts, responses))
    return np.argsort(draws, axis=1)[:, :size]
