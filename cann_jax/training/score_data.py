"""The batches of a reward or cost model: pairs with human labels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cann_jax.data.encoded_pairs import EncodedPairs
from cann_jax.data.padding import pad, step_width
from cann_jax.runtime.placement import own_rows, place_rows
from cann_jax.training.batch_order import items_of_step, steps_in
from cann_jax.training.score_objective import ScoreBatch


@dataclass(frozen=True)
class ScoreData:
    """Labelled pairs, and how steps take them.

    Args:
        pairs: The pairs.
        chosen: (n,) indices of those that are labelled.
        preferred: (n,) their labels, 0 or 1.
        size: Pairs in a step, over all hosts.
        epochs: Passes over the pairs.
        seed: Seed of the order.
    """

    pairs: EncodedPairs
    chosen: np.ndarray
    preferred: np.ndarray
    size: int
    epochs: int
    seed: int

    @property
    def steps(self) -> int:
        """Number of steps in all epochs."""
        return steps_in(self.epochs, len(self.chosen), self.size)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens (n,) of each labelled pair."""
        return np.asarray(self.pairs.lengths[self.chosen])

    def batch(self, step: int) -> ScoreBatch:
        """Return the batch of a step."""
        return self.of(self.places(step))

    def places(self, step: int) -> np.ndarray:
        """Return the places (B,) in ``chosen`` of the pairs of a step, over all hosts."""
        return items_of_step(step, len(self.chosen), self.size, self.seed, self.lengths)[1]

    def widths(self, places: np.ndarray) -> tuple[int, int]:
        """Return the padded widths of the prompts and the responses at these places of ``chosen``."""
        rows, pairs = self.chosen[places], self.pairs
        prompt = max(len(pairs.prompt_ids[row]) for row in rows)
        response = max(len(ids) for row in rows for ids in pairs.response_ids[row])
        return step_width(prompt), step_width(response)

    def in_order(self) -> list[np.ndarray]:
        """Return every place once, in groups of ``size`` and of similar length; the last group is padded."""
        order = np.argsort(self.lengths, kind="stable")
        places = np.arange(self.size * -(-len(order) // self.size))
        return list(order[np.minimum(places, len(order) - 1)].reshape(-1, self.size))

    def of(self, places: np.ndarray) -> ScoreBatch:
        """Return the batch of the pairs at these places of ``chosen`` on the current mesh.

        Each host makes the rows that its devices hold.
        """
        rows, pairs, size = self.chosen[places], self.pairs, len(places)
        width, response_width = self.widths(places)
        mine = own_rows(size)
        rows, places = rows[mine], places[mine]
        prompts, prompt_lengths = pad([pairs.prompt_ids[row] for row in rows], width)
        responses, lengths = pad([ids for row in rows for ids in pairs.response_ids[row]], response_width)
        batch = dict(
            prompts=prompts,
            prompt_lengths=prompt_lengths,
            responses=responses.reshape(len(rows), 2, -1),
            response_lengths=lengths.reshape(-1, 2),
            preferred=self.preferred[places].astype(np.int32),
            safe=pairs.safe[rows].astype(np.int32),
        )
        return ScoreBatch(**place_rows(batch, size))
