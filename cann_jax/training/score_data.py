"""The batches of a reward or cost model: pairs with human labels."""

from dataclasses import dataclass

import numpy as np

from cann_jax.runtime.placement import place_rows
from cann_jax.training.batching import GroupData, Places
from cann_jax.training.score_objective import ScoreBatch


@dataclass(frozen=True)
class ScoreData(GroupData):
    """Labelled pairs as two responses to each prompt.

    Args:
        preferred: (N,) their labels, 0 or 1.
        safe: (N, 2) for each response 1 safe, 0 unsafe, -1 not labelled.
    """

    preferred: np.ndarray
    safe: np.ndarray

    def places(self, step: int) -> Places:
        """Return the places of a step's pairs, over all hosts."""
        return _both(self.prompts_of(step)[1])

    def batch(self, step: int) -> ScoreBatch:
        """Return the batch of a step."""
        return self.of(self.prompts_of(step)[1])

    def of(self, pairs: np.ndarray) -> ScoreBatch:
        """Return the batch of these pairs on the current mesh; each host makes the rows that it holds."""
        rows, _, arrays = self.own_arrays(*_both(pairs))
        arrays["preferred"] = self.preferred[rows[:, 0]].astype(np.int32)
        arrays["safe"] = self.safe[rows[:, 0]].astype(np.int32)
        return ScoreBatch(**place_rows(arrays, len(pairs)))


def _both(pairs: np.ndarray) -> Places:
    return pairs[:, None], np.tile([0, 1], (len(pairs), 1))
