"""Which responses of which prompts a training step sees: a function of (seed, step) alone."""

import numpy as np


def prompts_of_step(step: int, prompts: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (size,) and prompt indices (size,) of a step.

    Steps walk through one permutation an epoch, drawn from (seed, epoch); a step may span several epochs.
    """
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), prompts)
    orders = {epoch: _order(prompts, seed, epoch) for epoch in np.unique(epochs)}
    return epochs, np.array([orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)])


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


def random_responses(prompt: int, responses: int, size: int, seed: int, epoch: int) -> np.ndarray:
    """(size,) indices without replacement, a function of (seed, epoch, prompt)."""
    return np.random.default_rng([seed, int(epoch), int(prompt), 1]).permutation(responses)[:size]
