"""Means over prompts, with Student's t intervals."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import t as student

from cann_jax.core.exploration.uncertainty import interval


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
        own = (self.weights * self.members.T).T
        count = own.sum(0) ** 2 / np.maximum((own**2).sum(0), 1e-30)
        spare = np.maximum(count - 1 - self.fitted, 1)
        return np.sqrt(count / spare), student.ppf((1 + self.confidence) / 2, spare)

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
        factor, quantile = self.reach()
        confidence = 1 - 2 * ndtr(-factor * quantile)
        ends = [interval(column, own) for column, own in zip(resampled.T, confidence, strict=True)]
        low, high = (np.stack(end) for end in zip(*ends, strict=True))
        return Estimate(value, low, high)
