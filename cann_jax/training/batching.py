"""Groups of responses to one prompt, and how the steps of a training take them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cann_jax.data.padding import bucket_width, pad, step_width
from cann_jax.data.responses import Responses
from cann_jax.models.flops import Row
from cann_jax.runtime.placement import own_rows
from cann_jax.training.batch_order import items_of_step, steps_in


@dataclass(frozen=True)
class Batching:
    """How the responses to a prompt are drawn into the batch of a step, and how their pairs are labelled.

    Args:
        seed: Seed of the order of the prompts, of the responses taken and of drawn labels.
        epochs: Passes over the prompts.
        prompts_per_step: Prompts in a step, over all hosts.
        group_size: Responses of each prompt in a step; all of them enter the loss.
        selection: ``extremes`` takes the highest and lowest rewards of each prompt, ``random`` a fresh random
            subset in every epoch.
        soft_labels: Label pairs by probabilities; False takes one Bernoulli draw of each.
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
    soft_labels: bool = True
    label_temperature: float = 1.0
    label_smoothing: float = 0.0
    ragged: bool = False


@dataclass(frozen=True)
class GroupData(ABC):
    """Responses (N, K) to prompts, and the groups of them that each step takes."""

    batching: Batching
    responses: Responses

    @cached_property
    def trained(self) -> np.ndarray:
        """Indices of the prompts that steps take."""
        return np.arange(self.responses.shape[0])

    @property
    def steps(self) -> int:
        """Number of steps in all epochs."""
        return steps_in(self.batching.epochs, len(self.trained), self.batching.prompts_per_step)

    @property
    def row(self) -> Row:
        """Mean size of a prompt with its group of responses."""
        responses = self.batching.group_size * float(self.responses.lengths.mean())
        return Row(float(np.mean([len(ids) for ids in self.responses.prompts.ids])) + responses, responses)

    @abstractmethod
    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the prompt indices (B, 1) and response indices (B, R) of a step, over all hosts."""

    def prompts_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epochs (B,) and the prompt indices (B,) of a step."""
        how = self.batching
        lengths = self.responses.total_tokens[self.trained] if how.ragged else None
        epochs, places = items_of_step(step, len(self.trained), how.prompts_per_step, how.seed, lengths)
        return epochs, self.trained[places]

    @cached_property
    def _prompt_width(self) -> int:
        return bucket_width(max(map(len, self.responses.prompts.ids)))

    def widths(self, rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
        """Return the padded widths of the prompts and the responses at these places.

        Unless the batching is ragged they are the same for all steps, so that one shape is compiled.
        """
        if not self.batching.ragged:
            return self._prompt_width, self.responses.tokens.shape[2]
        longest = max(len(self.responses.prompts.ids[row]) for row in rows[:, 0])
        return step_width(longest), step_width(int(self.responses.lengths[rows, columns].max()))

    def widest(self) -> tuple[int, int]:
        """Return the widths of the step that has the most tokens with two responses to a prompt."""
        widths = (self.widths(*self.places(step)) for step in range(self.steps))
        return max(widths, key=lambda sizes: sizes[0] + 2 * sizes[1])

    def own_arrays(
        self, rows: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Return the places that devices of this host hold, and their ids and lengths by name."""
        widths, mine = self.widths(rows, columns), own_rows(len(rows))
        rows, columns = rows[mine], columns[mine]
        return rows, columns, self.arrays(rows, columns, *widths)

    def arrays(
        self, rows: np.ndarray, columns: np.ndarray, width: int, response_width: int
    ) -> dict[str, np.ndarray]:
        """Return the ids and lengths at these places by name, padded to these widths."""
        prompts, prompt_lengths = pad([self.responses.prompts.ids[row] for row in rows[:, 0]], width)
        tokens = self.responses.tokens[rows, columns]
        room = max(0, response_width - tokens.shape[2])
        return {
            "prompts": prompts,
            "prompt_lengths": prompt_lengths,
            "responses": np.pad(tokens, ((0, 0), (0, 0), (0, room)))[:, :, :response_width],
            "response_lengths": self.responses.lengths[rows, columns],
        }
