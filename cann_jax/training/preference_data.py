"""The batches of preference optimization: groups of responses to one prompt, and their labels."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cann_jax.core.losses import smoothed
from cann_jax.core.preference import preference_probability
from cann_jax.data.padding import bucket_width, pad, step_width
from cann_jax.data.responses import Responses
from cann_jax.runtime.placement import own_rows, place_rows
from cann_jax.training.batch_order import items_of_step, steps_in
from cann_jax.training.preference_objective import PreferenceBatch


@dataclass(frozen=True)
class Batching:
    """How the responses to a prompt are drawn into the batch of a step, and how their pairs are labelled.

    Args:
        seed: Seed of the order of the prompts, of the responses taken and of drawn labels.
        epochs: Passes over the prompts.
        prompts_per_step: Prompts in a step, over all hosts.
        group_size: Responses of each prompt in a step; all their pairs enter the loss.
        selection: ``extremes`` takes the highest and lowest rewards of each prompt, ``random`` a fresh random
            subset in every epoch.
        labels: ``soft`` probabilities, or one Bernoulli draw of each, ``drawn`` once.
        label_temperature: A label is σ(difference of the rewards / this). 0 is the limit, 1 for the larger
            reward and ½ for a tie: the label of a person who chose one response.
        label_smoothing: Probability, below one half, that a label is the wrong way round.
        ragged: Whether responses differ widely in length, as in a data set of pairs: a step then takes
            prompts of similar length and is cut to its longest, instead of one width for all steps.
    """

    seed: int
    epochs: int
    prompts_per_step: int
    group_size: int = 2
    selection: Literal["extremes", "random"] = "random"
    labels: Literal["soft", "drawn"] = "soft"
    label_temperature: float = 1.0
    label_smoothing: float = 0.0
    ragged: bool = False


@dataclass(frozen=True)
class PreferenceData:
    """Everything that batches are made of; MoCAN, PeCAN and the DPO baselines differ in this alone.

    Args:
        batching: How batches are made of it.
        responses: The reference's samples, or the two responses of each pair of a data set.
        reward: (N, K) r_λ; for human preferences 1 for the preferred response and 0 for the other.
        reference: (N, K) log π_ref(y|x) as training computes it; NaN where no step reads it.
        scores: The (N, K) terms of r_λ by name; for display only.
    """

    batching: Batching
    responses: Responses
    reward: np.ndarray
    reference: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of steps in all epochs."""
        return steps_in(self.batching.epochs, self.responses.shape[0], self.batching.prompts_per_step)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the prompt indices (B, 1) and response indices (B, R) of a step, over all hosts."""
        how, (prompts, count) = self.batching, self.responses.shape
        lengths = self.lengths if how.ragged else None
        epochs, chosen = items_of_step(step, prompts, how.prompts_per_step, how.seed, lengths)
        if how.selection == "extremes":
            return chosen[:, None], extreme_responses(self.reward[chosen], how.group_size)
        drawn = [
            random_responses(n, count, how.group_size, how.seed, e)
            for e, n in zip(epochs, chosen, strict=True)
        ]
        return chosen[:, None], np.stack(drawn)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens (N,) of each prompt with its responses."""
        return np.asarray(self.responses.lengths.sum(1) + [len(ids) for ids in self.responses.prompts.ids])

    @cached_property
    def _prompt_width(self) -> int:
        return bucket_width(max(map(len, self.responses.prompts.ids)))

    def batch(self, step: int) -> PreferenceBatch:
        """Return the batch of a step on the current mesh; each host makes the rows that its devices hold."""
        rows, columns = self.places(step)
        widths, mine = self.widths(rows, columns), own_rows(len(rows))
        rows, columns = rows[mine], columns[mine]
        prompts, prompt_lengths = pad([self.responses.prompts.ids[row] for row in rows[:, 0]], widths[0])
        batch = dict(
            prompts=prompts,
            prompt_lengths=prompt_lengths,
            responses=self._tokens(rows, columns, widths[1]),
            response_lengths=self.responses.lengths[rows, columns],
            reference_logps=self.reference[rows, columns],
            labels=self.labels(rows, columns).astype(np.float32),
            rewards=self.reward[rows, columns].astype(np.float32),
        )
        return PreferenceBatch(**place_rows(batch, self.batching.prompts_per_step))

    def widths(self, rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
        """Return the padded widths of the prompts and the responses of a step.

        Unless the batching is ragged they are the same for all steps, so that one shape is compiled.
        """
        if not self.batching.ragged:
            return self._prompt_width, self.responses.tokens.shape[2]
        longest = max(len(self.responses.prompts.ids[row]) for row in rows[:, 0])
        return step_width(longest), step_width(int(self.responses.lengths[rows, columns].max()))

    def _tokens(self, rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
        tokens = self.responses.tokens[rows, columns]
        room = max(0, width - tokens.shape[2])
        return np.pad(tokens, ((0, 0), (0, 0), (0, room)))[:, :, :width]

    def labels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the labels (B, R, R) of all pairs of the groups at these ``places``."""
        how, reward = self.batching, self.reward[rows, columns]
        first, second = reward[:, :, None], reward[:, None, :]
        labels: Any  # the pure functions take NumPy arrays too
        if how.label_temperature > 0:
            labels = np.asarray(preference_probability(first, second, how.label_temperature))
        else:
            labels = (1 + np.sign(first - second)) / 2
        if how.labels == "drawn":
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
    """Draw each label once from its probability, the same whenever the pair comes back.

    Args:
        probabilities: (B, R, R) P(i ≻ j).
        prompts: (B,) indices of the prompts.
        responses: (B, R) indices of the responses.
        seed: The draw is a function of (seed, prompt, pair of responses).

    Returns:
        (B, R, R) 0 or 1, where (i, j) and (j, i) are one draw; the diagonal is unchanged.
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
