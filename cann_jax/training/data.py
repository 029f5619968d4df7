"""The batches of preference optimisation: groups of responses to one prompt, and their labels."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from cann_jax.core import preference_probability
from cann_jax.core.losses import smoothed
from cann_jax.data.padding import bucketed, pad, step_width
from cann_jax.data.preferences import (
    drawn_labels,
    extreme_responses,
    prompts_of_step,
    random_responses,
    steps_in,
)
from cann_jax.data.responses import Responses
from cann_jax.runtime.sharding import own_rows, place_rows
from cann_jax.training.step import PreferenceBatch


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
    """Everything that a step's batch is made of; what trains on what differs in this alone.

    Args:
        batching: How steps are made of it.
        responses: The reference's samples, or the two responses of each pair of a data set.
        reward: (N, K) r_λ; for human preferences 1 for the preferred response and 0 for the other.
        reference: (N, K) log π_ref(y|x) as training computes it; NaN where no step asks.
        scores: What r_λ is made of, (N, K) by name; only shown to people.
    """

    batching: Batching
    responses: Responses
    reward: np.ndarray
    reference: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return steps_in(self.batching.epochs, self.responses.shape[0], self.batching.prompts_per_step)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Prompt indices (B, 1) and response indices (B, R) of a step, over all hosts."""
        how, (prompts, count) = self.batching, self.responses.shape
        lengths = self.lengths if how.ragged else None
        epochs, chosen = prompts_of_step(step, prompts, how.prompts_per_step, how.seed, lengths)
        if how.selection == "extremes":
            return chosen[:, None], extreme_responses(self.reward[chosen], how.group_size)
        drawn = [
            random_responses(n, count, how.group_size, how.seed, e)
            for e, n in zip(epochs, chosen, strict=True)
        ]
        return chosen[:, None], np.stack(drawn)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each prompt with its responses."""
        return self.responses.lengths.sum(1) + [len(ids) for ids in self.responses.prompts.ids]

    @cached_property
    def _prompt_width(self) -> int:
        return bucketed(list(self.responses.prompts.ids))[0].shape[1]

    def batch(self, step: int) -> PreferenceBatch:
        """The step's batch on the mesh in use; each host makes the rows that its devices hold."""
        rows, columns = self.places(step)
        widths, mine = self.widths(rows, columns), own_rows(len(rows))
        rows, columns = rows[mine], columns[mine]
        prompts, prompt_lengths = pad([self.responses.prompts.ids[row] for row in rows[:, 0]], widths[0])
        batch = PreferenceBatch(
            prompts=prompts,
            prompt_lengths=prompt_lengths,
            responses=self._tokens(rows, columns, widths[1]),
            response_lengths=self.responses.lengths[rows, columns],
            reference_logps=self.reference[rows, columns],
            labels=self.labels(rows, columns).astype(np.float32),
            rewards=self.reward[rows, columns].astype(np.float32),
        )
        return place_rows(batch, self.batching.prompts_per_step)

    def widths(self, rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
        """Of prompts and responses: what this step needs, or all alike, so that one shape is compiled."""
        if not self.batching.ragged:
            return self._prompt_width, self.responses.tokens.shape[2]
        longest = max(len(self.responses.prompts.ids[row]) for row in rows[:, 0])
        return step_width(longest), step_width(int(self.responses.lengths[rows, columns].max()))

    def _tokens(self, rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
        tokens = self.responses.tokens[rows, columns]
        room = max(0, width - tokens.shape[2])
        return np.pad(tokens, ((0, 0), (0, 0), (0, room)))[:, :, :width]

    def labels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(B, R, R) labels of all pairs of the groups at ``places``."""
        how, reward = self.batching, self.reward[rows, columns]
        first, second = reward[:, :, None], reward[:, None, :]
        if how.label_temperature > 0:
            labels = np.asarray(preference_probability(first, second, how.label_temperature))
        else:
            labels = (1 + np.sign(first - second)) / 2
        if how.labels == "drawn":
            labels = drawn_labels(labels, rows[:, 0], columns, how.seed)
        return smoothed(labels, how.label_smoothing)

    def show_pairs(self, count: int = 3) -> None:
        """Print a few decoded pairs with their scores, r_λ and which one won."""
        rows, columns = self.places(0)
        labels = self.labels(rows, columns)
        for row in range(min(count, len(rows))):
            prompt, first, second = rows[row, 0], columns[row, 0], columns[row, -1]
            print(f"pair: {' '.join(self.responses.prompts.prompts[prompt].text.split())[:200]}")
            self._show(prompt, first, labels[row, 0, -1])
            self._show(prompt, second, labels[row, -1, 0])

    def _show(self, prompt: int, response: int, probability: float) -> None:
        scores = {**self.scores, "r_λ": self.reward}
        said = ", ".join(f"{name} {values[prompt, response]:.3g}" for name, values in scores.items())
        text = " ".join(self.responses.texts[prompt][response].split())
        print(f"  {probability:.0%} preferred, {said}: {text[:100]}")
