"""The batches of preference optimization: groups of responses to one prompt, and their labels."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cann_jax.core.losses import smoothed
from cann_jax.core.preference import preference_probability
from cann_jax.runtime.placement import place_rows
from cann_jax.training.batching import GroupData
from cann_jax.training.preference_objective import PreferenceBatch


@dataclass(frozen=True)
class PreferenceData(GroupData):
    """Everything that batches are made of; MoCAN, PeCAN and the DPO baselines differ in this alone.

    Args:
        reward: (N, K) r_λ; for human preferences 1 for the preferred response and 0 for the other.
        reference: (N, K) log π_ref(y|x) as training computes it; NaN where no step reads it.
        scores: The (N, K) terms of r_λ by name; for display only.
    """

    reward: np.ndarray
    reference: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the prompt indices (B, 1) and response indices (B, R) of a step, over all hosts."""
        how, (epochs, chosen) = self.batching, self.prompts_of(step)
        if how.selection == "extremes":
            return chosen[:, None], extreme_responses(self.reward[chosen], how.group_size)
        count, size = self.responses.shape[1], how.group_size
        places = zip(epochs, chosen, strict=True)
        drawn = [random_responses(prompt, count, size, how.seed, epoch) for epoch, prompt in places]
        return chosen[:, None], np.stack(drawn)

    def batch(self, step: int) -> PreferenceBatch:
        """Return the batch of a step on the current mesh; each host makes the rows that its devices hold."""
        rows, columns, arrays = self.own_arrays(*self.places(step))
        arrays["reference_logps"] = self.reference[rows, columns]
        arrays["labels"] = self.labels(rows, columns).astype(np.float32)
        arrays["rewards"] = self.reward[rows, columns].astype(np.float32)
        return PreferenceBatch(**place_rows(arrays, self.batching.prompts_per_step))

    def labels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the labels (B, R, R) of all pairs of the groups at these ``places``."""
        how, reward = self.batching, self.reward[rows, columns]
        first, second = reward[:, :, None], reward[:, None, :]
        labels: Any  # the pure functions take NumPy arrays too
        if how.label_temperature > 0:
            labels = np.asarray(preference_probability(first, second, how.label_temperature))
        else:
            labels = (1 + np.sign(first - second)) / 2
        if not how.soft_labels:
            labels = drawn_labels(labels, rows[:, 0], columns, how.seed)
        return np.asarray(smoothed(labels, how.label_smoothing))

    def show_pairs(self, count: int = 3) -> None:
        """Print a few decoded pairs with their scores, r_λ and the probability of each response."""
        rows, columns = self.places(0)
        labels = self.labels(rows, columns)
        for row in range(min(count, len(rows))):
            prompt, first, second = rows[row, 0], columns[row, 0], columns[row, -1]
            print(f"pair: {' '.join(self.responses.prompts.prompts[prompt].text.split())[:200]}")
            self._show(prompt, first, labels[row, 0, -1])
            self._show(prompt, second, labels[row, -1, 0])

    def _show(self, prompt: int, response: int, probability: float) -> None:
        scores = {**self.scores, "r_λ": self.reward}
        shown = ", ".join(f"{name} {values[prompt, response]:.3g}" for name, values in scores.items())
        text = " ".join(self.responses.texts[prompt][response].split())
        print(f"  {probability:.0%} preferred, {shown}: {text[:100]}")


def extreme_responses(pseudo_reward: np.ndarray, size: int) -> np.ndarray:
    """Return the indices (N, size) of the highest and lowest pseudo-rewards, half and half, by rank.

    A fit shrinks towards what it can explain; the ends of the scale carry more of it than the middle
    (docs/quickstart_study.md measures by how much).
    """
    order = np.argsort(-pseudo_reward, axis=1, kind="stable")
    high = -(-size // 2)
    return np.concatenate([order[:, :high], order[:, pseudo_reward.shape[1] - (size - high) :]], axis=1)


def random_responses(prompt: int, responses: int, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return (size,) indices without replacement, a function of (seed, epoch, prompt)."""
    return np.random.default_rng([seed, int(epoch), int(prompt), 1]).permutation(responses)[:size]


def drawn_labels(
    probabilities: np.ndarray, prompts: np.ndarray, responses: np.ndarray, seed: int
) -> np.ndarray:
    """Draw each label (B, R, R) once from its probability P(i ≻ j), the same whenever the pair comes back.

    The draw is a function of (seed, prompt (B,), pair of responses (B, R)); (i, j) and (j, i) are one draw,
    and the diagonal is unchanged.
    """
    labels = np.array(probabilities)
    for row, (prompt, chosen) in enumerate(zip(prompts, responses, strict=True)):
        low, high = np.minimum.outer(chosen, chosen), np.maximum.outer(chosen, chosen)
        # One stream per prompt, and in it one place per pair, whatever else is in the group.
        places = high * (high + 1) // 2 + low
        draw = np.random.default_rng([seed, int(prompt), 2]).random(places.max() + 1)[places]
        # Of two responses, the first in the table wins where the draw is below its probability.
        first = chosen[:, None] < chosen[None, :]
        wins = np.where(first, draw < probabilities[row], draw >= probabilities[row].T)
        labels[row] = np.where(np.eye(len(chosen), dtype=bool), labels[row], wins)
    return labels
