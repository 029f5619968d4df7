"""Means over prompts, with Student's t intervals."""

from typing import NamedTuple

import numpy as np

from cann_jax.core.exploration.uncertainty import student_reach, widened_interval


class Estimate(NamedTuple):
    """An estimate and the ends of its interval, all scalars or all ``(m,)``."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class PromptMeans(NamedTuple):
    """Weights of the prompts that estimates are means over, and what was fitted on the same prompts.

    Attributes:
        weights: ``(prompts,)``; they sum to one.
        members: ``(prompts, m)``, 1 in the constraint's group; or ``(prompts,)`` ones.
        fitted: Number of slopes and multipliers, for which degrees of freedom are taken off.
        confidence: Of the intervals.
    """

    weights: np.ndarray
    members: np.ndarray
    fitted: int
    confidence: float

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the factor of the plain standard error, and the quantile of Student's t to multiply by."""
        return student_reach(self.weights, self.members, self.fitted, (1 - self.confidence) / 2)

    def estimate(self, values: np.ndarray) -> Estimate:
        """Return the means of ``(prompts,)`` or ``(prompts, m)``.

        Prepared scores of a group carry the factor 1{x ∈ G}/p, and p is estimated too.
        """
        mean = self.weights @ values
        deviations = values - self.members / (self.weights @ self.members) * mean
        factor, quantile = self.reach()
        reach = factor * quantile * np.sqrt(self.weights**2 @ deviations**2)
        return Estimate(mean, mean - reach, mean + reach)

    def percentiles(self, value: np.ndarray, resampled: np.ndarray) -> Estimate:
        """Return the interval of ``(resamples, m)``, as much wider as the means' are than a normal one."""
        low, high = widened_interval(resampled, self.confidence, self.weights, self.members, self.fitted)
        return Estimate(value, low, high)
