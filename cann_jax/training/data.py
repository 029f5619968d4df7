"""The batches of preference optimisation: groups of one prompt's samples, labelled by their pseudo-reward."""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np

from cann_jax.config import RunConfig
from cann_jax.core import preference_probability
from cann_jax.data.preferences import extreme_responses, prompts_of_step, random_responses, steps_in
from cann_jax.data.responses import Responses
from cann_jax.padding import bucketed
from cann_jax.training.step import PreferenceBatch


@dataclass(frozen=True)
class PreferenceData:
    """Everything that a step's batch is made of.

    Args:
        config: The run's configuration.
        responses: The reference's samples.
        reward: (N, K) r_λ.
        reference: (N, K) log π_ref(y|x) as training computes it; NaN where no step asks.
    """

    config: RunConfig
    responses: Responses
    reward: np.ndarray
    reference: np.ndarray

    @property
    def steps(self) -> int:
        align = self.config.align
        return steps_in(align.epochs, self.responses.shape[0], align.prompts_per_step)

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Prompt indices (B, 1) and response indices (B, R) of a step."""
        align, (prompts, count), seed = self.config.align, self.responses.shape, self.config.seed
        epochs, chosen = prompts_of_step(step, prompts, align.prompts_per_step, seed)
        if align.selection == "extremes":
            return chosen[:, None], extreme_responses(self.reward[chosen], align.group_size)
        drawn = [
            random_responses(n, count, align.group_size, seed, e) for e, n in zip(epochs, chosen, strict=True)
        ]
        return chosen[:, None], np.stack(drawn)

    @cached_property
    def _prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """All prompts at one width, so that one shape is compiled."""
        return bucketed(list(self.responses.prompts.ids))

    def batch(self, step: int) -> PreferenceBatch:
        rows, columns = self.places(step)
        ids, lengths = self._prompts
        reward = self.reward[rows, columns]
        labels = preference_probability(reward[:, :, None], reward[:, None, :])
        return PreferenceBatch(
            prompts=jnp.asarray(ids[rows[:, 0]]),
            prompt_lengths=jnp.asarray(lengths[rows[:, 0]]),
            responses=jnp.asarray(self.responses.tokens[rows, columns]),
            response_lengths=jnp.asarray(self.responses.lengths[rows, columns]),
            reference_logps=jnp.asarray(self.reference[rows, columns]),
            labels=jnp.asarray(labels, jnp.float32),
        )

    def show_pairs(self, count: int = 3) -> None:
        """Print a few decoded pairs with r_λ and which one won."""
        rows, columns = self.places(0)
        for prompt, (first, *_, second) in zip(rows[:count, 0], columns[:count], strict=True):
            print(f"pair: {self.responses.prompts.prompts[prompt].text}")
            label = preference_probability(self.reward[prompt, first], self.reward[prompt, second])
            for response, probability in ((first, label), (second, 1 - label)):
                text = " ".join(self.responses.texts[prompt][response].split())
                print(f"  {probability:.0%} preferred, r_λ {self.reward[prompt, response]:.3g}: {text[:100]}")
