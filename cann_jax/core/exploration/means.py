"""Means over prompts, their standard errors, and Student's t intervals."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from cann_jax.core.arguments import tail_of
from cann_jax.core.arrays import Array
from cann_jax.core.scores import TOO_FEW, effective_prompts


class Estimate(NamedTuple):
    """An estimate and the ends of its interval, all scalars or all ``(m,)``."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_and_error(
    values: Array, weights: Array, members: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean of ``(..., prompts)`` and its standard error, in float64.

    The other arguments are those of ``mean_and_shares``.
    """
    mean, shares = mean_and_shares(values, weights, members)
    return mean, np.sqrt(np.sum(shares**2, axis=-1))


def mean_and_shares(
    values: Array, weights: Array, members: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean of ``(..., prompts)`` and what each prompt adds to its error, in float64.

    Prepared scores of a group carry the factor 1{x ∈ G}/p, and p is estimated on the same prompts: the error
    is that of a ratio.

    Args:
        values: ``(m, prompts)`` or ``(prompts,)``.
        weights: ``(prompts,)``; they sum to one.
        members: ``(prompts, m)``, 1 in the constraint's group; None: all prompts are.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    inside = np.ones_like(values) if members is None else np.asarray(members, np.float64).T
    mean = values @ weights
    own = np.asarray(mean / np.maximum(inside @ weights, 1e-30))
    return mean, weights * (values - inside * own[..., None])


def student_width(
    error: np.ndarray | float, prompts: np.ndarray | float, fitted: int, tail: float
) -> np.ndarray:
    """Return how far a mean is from its bound at one ``tail``; infinite where too few prompts tell no error.

    ``prompts`` are effective ones (``effective_prompts``). ``fitted`` numbers fitted on the same prompts take
    degrees of freedom off the plain ``error``; one is left at least.
    """
    spare = np.maximum(prompts - 1 - fitted, 1)
    width = error * np.sqrt(prompts / spare) * stdtrit(spare, 1 - tail)
    return np.where(prompts < TOO_FEW, np.inf, width)


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval over the leading axis; +∞ (infeasible) is never interpolated."""
    tail = (1 - confidence) / 2
    low = np.quantile(samples, tail, axis=0, method="lower")
    return low, np.quantile(samples, 1 - tail, axis=0, method="higher")


class PromptMeans(NamedTuple):
    """Weights of the prompts that estimates are means over, and what was fitted on the same prompts.

    Attributes:
        weights: ``(prompts,)``; they sum to one.
        members: ``(prompts, m)``, 1 in the constraint's group; None: all prompts are.
        fitted: Number of slopes and multipliers, for which degrees of freedom are taken off.
        confidence: Of the intervals.
    """

    weights: np.ndarray
    members: Array | None
    fitted: int
    confidence: float

    def _width(self, error: np.ndarray | float) -> np.ndarray:
        count = effective_prompts(self.weights, self.members)
        return student_width(error, count, self.fitted, tail_of(self.confidence, 2))

    def estimate(self, values: np.ndarray) -> Estimate:
        """Return the means of ``(prompts,)`` or ``(prompts, m)``."""
        mean, error = mean_and_error(np.asarray(values).T, self.weights, self.members)
        width = self._width(error)
        return Estimate(mean, mean - width, mean + width)

    def percentiles(self, resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return percentile intervals of ``(resamples, m)``, as wide for few prompts as Student's t.

        Plain percentiles are too narrow at few prompts (Hesterberg 2015).
        """
        widths = np.broadcast_to(self._width(1.0), resampled.shape[1:])
        ends = [interval(*given) for given in zip(resampled.T, 1 - 2 * ndtr(-widths), strict=True)]
        low, high = (np.stack(own) for own in zip(*ends, strict=True))
        return np.where(np.isinf(widths), -np.inf, low), np.where(np.isinf(widths), np.inf, high)
