"""The batches of a reward or cost model: human preferences, their order a function of (seed, step)."""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np

from cann_jax.data.encoded_pairs import EncodedPairs
from cann_jax.data.preferences import host_rows, prompts_of_step, steps_in
from cann_jax.padding import stepped
from cann_jax.training.score_step import ScoreBatch


@dataclass(frozen=True)
class ScoreData:
    """Labelled pairs, and how steps walk through them.

    Args:
        pairs: The pairs.
        chosen: (n,) those that have the label.
        preferred: (n,) their labels, 0 or 1.
        size: Pairs a step, over all hosts.
        epochs: Passes.
        seed: Of the order.
    """

    pairs: EncodedPairs
    chosen: np.ndarray
    preferred: np.ndarray
    size: int
    epochs: int
    seed: int

    @property
    def steps(self) -> int:
        return steps_in(self.epochs, len(self.chosen), self.size)

    @cached_property
    def lengths(self) -> np.ndarray:
        return self.pairs.lengths[self.chosen]

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> ScoreBatch:
        """This host's rows of a step."""
        _, places = prompts_of_step(step, len(self.chosen), self.size, self.seed, self.lengths)
        return self.of(places[host_rows(self.size, process_index, process_count)])

    def in_order(self) -> list[np.ndarray]:
        """Every pair once, in groups of ``size`` of similar length; the last is filled up with its last."""
        order = np.argsort(self.lengths, kind="stable")
        places = np.arange(self.size * -(-len(order) // self.size))
        return list(order[np.minimum(places, len(order) - 1)].reshape(-1, self.size))

    def of(self, places: np.ndarray) -> ScoreBatch:
        """The batch of the pairs at these places of ``chosen``."""
        rows = self.chosen[places]
        prompts, prompt_lengths = stepped([self.pairs.prompt_ids[row] for row in rows])
        responses, lengths = stepped([ids for row in rows for ids in self.pairs.response_ids[row]])
        return ScoreBatch(
            prompts=jnp.asarray(prompts),
            prompt_lengths=jnp.asarray(prompt_lengths),
            responses=jnp.asarray(responses.reshape(len(rows), 2, -1)),
            response_lengths=jnp.asarray(lengths.reshape(-1, 2)),
            preferred=jnp.asarray(self.preferred[places], jnp.int32),
            safe=jnp.asarray(self.pairs.safe[rows], jnp.int32),
        )
