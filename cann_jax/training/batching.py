"""Groups of responses to one prompt, and how the steps of a training take them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import numpy as np

from cann_jax.data.padding import best_widths, bucket_width, pad, step_width
from cann_jax.data.responses import Responses
from cann_jax.models.flops import Row
from cann_jax.models.packing import Room
from cann_jax.runtime.mesh import platform
from cann_jax.runtime.placement import own_rows
from cann_jax.runtime.sharding import axis_size
from cann_jax.training.batch_order import Order, even_rows, items_of_step, order_of_epoch, steps_in

PROGRAMS = 6  # sizes of packed rows, each of which is compiled
Places = tuple[np.ndarray, np.ndarray]  # prompt indices (B, 1) and response indices (B, R)


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
        ragged: Whether lengths differ widely, as in a data set of pairs: rows are then packed, or where they
            cannot be, steps take prompts of similar length and are cut to their longest.
        accumulation: Micro-batches of a step; row i of a batch is in number i mod this.
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
    accumulation: int = 1

    @property
    def packed(self) -> bool:
        """Whether rows have no padding but at their end, and one of a few widths."""
        return self.ragged and can_pack()

    @property
    def together(self) -> int:
        """Prompts that the order puts beside each other; the mesh does not change it."""
        return 2 if self.packed and self.prompts_per_step % (2 * self.accumulation) == 0 else 1

    @property
    def groups_per_row(self) -> int:
        """Prompts in a row: those together, where every device has whole rows of each micro-batch."""
        rows = self.prompts_per_step // (self.together * self.accumulation)
        return 1 if rows % axis_size("batch") else self.together

    def by_row(self, prompts: np.ndarray) -> np.ndarray:
        """Return something of the prompts (B, …) of a batch by row (rows, groups_per_row, …)."""
        split = prompts.reshape(-1, self.groups_per_row, self.accumulation, *prompts.shape[1:])
        return np.swapaxes(split, 1, 2).reshape(-1, self.groups_per_row, *prompts.shape[1:])

    def in_rows(self, prompts: np.ndarray) -> np.ndarray:
        """Return prompts (B,), of which those beside each other belong in a row, as batches take them."""
        split = prompts.reshape(-1, self.accumulation, self.groups_per_row)
        return np.swapaxes(split, 1, 2).reshape(-1)


def can_pack() -> bool:
    """Return whether packed rows serve here: not on a TPU.

    Their mask is data, for which its kernel makes tables of blocks in every layer, and skips none.
    """
    return platform() != "tpu"


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
    def places(self, step: int) -> Places:
        """Return the places of a step, over all hosts."""

    def other_places(self) -> list[Places]:
        """Return those of prompts that no step takes and that are computed between steps; here none."""
        return []

    @cached_property
    def _order(self) -> Order:
        how = self.batching
        lengths = self.responses.total_tokens[self.trained] if how.ragged else None
        given = {"items": len(self.trained), "size": how.prompts_per_step, "seed": how.seed}
        return lru_cache(2)(partial(order_of_epoch, **given, lengths=lengths, together=how.together))

    def prompts_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the epochs (B,) and the prompt indices (B,) of a step."""
        how = self.batching
        found = items_of_step(step, len(self.trained), how.prompts_per_step, self._order)
        epochs, places = map(how.in_rows, found) if how.ragged else found
        return epochs, self.trained[places]

    def in_batches(self, prompts: np.ndarray) -> list[np.ndarray]:
        """Return every one of the prompts (n,) once, in batches (B,); the last prompt fills the last up."""
        how = self.batching
        places = np.arange(-(-len(prompts) // how.prompts_per_step) * how.prompts_per_step)
        filled = prompts[np.minimum(places, len(prompts) - 1)]
        if how.ragged:
            filled = even_rows(filled, self.responses.total_tokens, how.together)
        batches = filled.reshape(-1, how.prompts_per_step)
        return [how.in_rows(batch) if how.ragged else batch for batch in batches]

    @cached_property
    def _widest(self) -> tuple[int, int]:
        return bucket_width(int(self._prompt_lengths.max())), self.responses.tokens.shape[2]

    def widths(self, rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
        """Return the padded widths of the ids of prompts and responses of the batch at these places.

        They are the same for all batches, so that one shape is compiled, unless lengths differ widely and
        rows are not packed.
        """
        if not self.batching.ragged or self.batching.packed:
            return self._widest
        longest = self._prompt_lengths[rows].max(), self.responses.lengths[rows, columns].max()
        return step_width(int(longest[0])), step_width(int(longest[1]))

    def largest(self) -> tuple[int, int, Room | None]:
        """Return widths and room of the step with the most tokens, two responses to a prompt."""
        if self.batching.packed:
            return *self._widest, self.rooms[-1]
        steps = (self.widths(*self.places(step)) for step in range(self.steps))
        return *max(steps, key=lambda widths: widths[0] + 2 * widths[1]), None

    @cached_property
    def rooms(self) -> list[Room]:
        """Rooms of the packed rows of all steps and ``other_places``, from the smallest."""
        every = [*map(self.places, range(self.steps)), *self.other_places()]
        needs = np.array([self._needs(*places) for places in every])
        widths = best_widths(needs[:, 0], PROGRAMS)
        of = np.searchsorted(widths, needs[:, 0])
        # The head is computed for so many tokens of a row as any row of this width asks for.
        predicted = [int(needs[of == index, 1].max()) for index in range(len(widths))]
        groups = self.batching.groups_per_row
        return [Room(groups, int(width), most) for width, most in zip(widths, predicted, strict=True)]

    def _needs(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the most tokens, and the most of responses, that a row of the batch at these places has."""
        predicted = self.responses.lengths[rows, columns].sum(1)
        tokens = predicted + self._prompt_lengths[rows[:, 0]]
        by_row = self.batching.by_row(np.stack([tokens, predicted], axis=1))
        return np.asarray(by_row.sum(1).max(0))

    @cached_property
    def _prompt_lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.responses.prompts.ids])

    def room(self, rows: np.ndarray, columns: np.ndarray) -> Room | None:
        """Return the smallest room that holds the rows of the batch at these places; None if not packed.

        It is one of ``rooms``, or where none is large enough, as for other batches than theirs, a new one.
        """
        if not self.batching.packed:
            return None
        tokens, predicted = map(int, self._needs(rows, columns))
        fits = (room for room in self.rooms if tokens <= room.tokens and predicted <= room.predicted)
        return next(fits, Room(self.batching.groups_per_row, tokens, predicted))

    def own_arrays(
        self, rows: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Return the places that devices of this host hold, and their ids, lengths and room by name."""
        mine, room, widths = own_rows(len(rows)), self.room(rows, columns), self.widths(rows, columns)
        rows, columns = rows[mine], columns[mine]
        return rows, columns, self.arrays(rows, columns, *widths) | {"room": room}

    def arrays(
        self, rows: np.ndarray, columns: np.ndarray, width: int, response_width: int
    ) -> dict[str, np.ndarray]:
        """Return the ids and lengths at these places by name, padded to these widths."""
        prompts, prompt_lengths = pad([self.responses.prompts.ids[row] for row in rows[:, 0]], width)
        tokens = self.responses.tokens[rows, columns]
        wider = max(0, response_width - tokens.shape[2])
        return {
            "prompts": prompts,
            "prompt_lengths": prompt_lengths,
            "responses": np.pad(tokens, ((0, 0), (0, 0), (0, wider)))[:, :, :response_width],
            "response_lengths": self.responses.lengths[rows, columns],
        }
