"""The batches of preference optimization: groups of responses to one prompt, and their labels."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cann_jax.core.losses import smoothed
from cann_jax.core.preference import preference_probability, safer_first
from cann_jax.files.console import one_line
from cann_jax.runtime.placement import place_rows
from cann_jax.training.batching import GroupData, Places
from cann_jax.training.preference_objective import PreferenceBatch


@dataclass(frozen=True)
class PreferenceData(GroupData):
    """Everything that batches are made of; MoCAN, PeCAN and the DPO baselines differ in this alone.

    Args:
        reward: (N, K) r_λ; for human preferences 1 for the preferred response and 0 for the other.
        reference: (N, K) log π_ref(y|x) as training computes it; NaN where no step reads it.
        scores: The (N, K) terms of r_λ by name; for display only.
        heldout: Indices of the prompts that no step takes, on which the training is watched.
        safe: (N, K) 1 safe, 0 unsafe, where the safe one of two is preferred (SafeDPO).
    """

    reward: np.ndarray
    reference: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    heldout: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    safe: np.ndarray | None = None

    @cached_property
    def trained(self) -> np.ndarray:
        """Indices of the prompts that steps take."""
        return np.setdiff1d(np.arange(self.responses.shape[0]), self.heldout)

    @property
    def prefers(self) -> bool:
        """Whether any response is better than another; an adapter trained on labels of 1/2 stays zero."""
        spread, largest = float(np.ptp(self.reward, axis=1).max()), float(np.abs(self.reward).max())
        return self.safe is not None or spread > 1e-6 * largest

    def places(self, step: int) -> Places:
        """Return the places of a step, over all hosts."""
        epochs, chosen = self.prompts_of(step)
        return self._groups(epochs, chosen)

    def other_places(self) -> list[Places]:
        """Return every place of the prompts kept from training, in batches of the size that steps have.

        The last prompt, and the last response, fill a batch up.
        """
        (_, count), how = self.responses.shape, self.batching
        columns = np.minimum(np.arange(-(-count // how.group_size) * how.group_size), count - 1)
        return [
            (prompts[:, None], np.tile(part, (len(prompts), 1)))
            for prompts in self.in_batches(self.heldout)
            for part in columns.reshape(-1, how.group_size)
        ]

    def heldout_group(self, values: np.ndarray) -> tuple[PreferenceBatch, Any]:
        """Return a group of responses to each prompt kept from training, and those of the values (H, K)."""
        rows, columns = self._groups(np.zeros(len(self.heldout), int), self.heldout)
        arrays = self.arrays(rows, columns, *self.widths(rows, columns))
        return PreferenceBatch(**self._labelled(rows, columns, arrays)), np.take_along_axis(
            values, columns, 1
        )

    def batch(self, step: int) -> PreferenceBatch:
        """Return the batch of a step on the current mesh; each host makes the rows that its devices hold."""
        return self.of(*self.places(step))

    def of(self, rows: np.ndarray, columns: np.ndarray) -> PreferenceBatch:
        """Return the batch of these places, as ``batch`` does."""
        arrays = self._labelled(*self.own_arrays(rows, columns))
        return PreferenceBatch(**place_rows(arrays, self.batching.prompts_per_step))

    def _groups(self, epochs: np.ndarray, prompts: np.ndarray) -> Places:
        """Return the places (B, 1) and (B, R) of the responses that these epochs take of the prompts (B,)."""
        how, count = self.batching, self.responses.shape[1]
        if how.selection == "extremes":
            return prompts[:, None], extreme_responses(self.reward[prompts], how.group_size)
        places = zip(epochs, prompts, strict=True)
        drawn = [random_responses(prompt, count, how.group_size, how.seed, epoch) for epoch, prompt in places]
        return prompts[:, None], np.stack(drawn)

    def _labelled(
        self, rows: np.ndarray, columns: np.ndarray, arrays: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        safe = {} if self.safe is None else {"safe": self.safe[rows, columns].astype(np.float32)}
        return (
            arrays
            | safe
            | {
                "reference_logps": self.reference[rows, columns],
                "labels": self.labels(rows, columns).astype(np.float32),
                "rewards": self.reward[rows, columns].astype(np.float32),
            }
        )

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
        if self.safe is not None:
            labels = safer_first(labels, self.safe[rows, columns])
        return np.asarray(smoothed(labels, how.label_smoothing))

    def show_pairs(self, count: int = 3) -> None:
        """Print a few decoded pairs with the probability of each response, and scores and r_λ, if any."""
        rows, columns = self.places(0)
        labels = self.labels(rows, columns)
        for row in range(min(count, len(rows))):
            prompt, first, second = rows[row, 0], columns[row, 0], columns[row, -1]
            print(f"pair: {one_line(self.responses.prompts.prompts[prompt].text, 200)}")
            self._show(prompt, first, labels[row, 0, -1])
            self._show(prompt, second, labels[row, -1, 0])

    def _show(self, prompt: int, response: int, probability: float) -> None:
        scores = dict(self.scores)
        if self.batching.label_temperature > 0:  # labels of people have no λ
            scores["r_λ"] = self.reward
        shown = "".join(f", {name} {values[prompt, response]:.3g}" for name, values in scores.items())
        text = one_line(self.responses.texts[prompt][response], 100)
        print(f"  {probability:.0%} preferred{shown}: {text}")


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
