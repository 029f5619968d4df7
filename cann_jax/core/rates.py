"""Rates of verdicts on prompts: their intervals, and what is left of a win rate at equal length."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from cann_jax.core.arguments import tail_of

Interval = tuple[float, float]


class Rate(NamedTuple):
    """A rate with its interval; both are None where nothing was counted."""

    value: float | None
    interval: Interval | None


class LengthControlled(NamedTuple):
    """A win rate at equal length, with its interval, and the slope of the log-odds on the length."""

    value: float
    interval: Interval
    slope: float


def rate(values: np.ndarray, confidence: float, independent: float | None = None) -> Rate:
    """Return the mean of values (n,) between 0 and 1, one a prompt, with Wilson's interval.

    Where prompts have several, ``independent`` says as how many they count.

    The interval is that of n draws of 0 or 1; of values between them, which vary less, it is wider than need
    be, and unlike a bootstrap's it is no point where all values are equal.
    """
    if len(values) == 0:
        return Rate(None, None)
    n = float(len(values)) if independent is None else independent
    mean, z = float(np.mean(values)), _quantile(confidence)
    middle = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return Rate(mean, (max(0.0, float(middle - half)), min(1.0, float(middle + half))))


def length_controlled(wins: np.ndarray, lengths: np.ndarray, confidence: float) -> LengthControlled | None:
    """Return what a logistic regression on the difference of lengths predicts at the difference 0.

    With y the wins and x = tanh(d/s), d the differences of lengths and s their standard deviation, a and b
    minimise −Σ [y ln σ(a + b x) + (1 − y) ln(1 − σ(a + b x))] + b²/2. The rate is σ(a); its interval is
    σ(a ± z·se), where se² is a's entry of the inverse Hessian: the variance of wins that are 0 or 1, as in
    ``rate``. b²/2 keeps b finite where lengths tell all wins.

    Args:
        wins: (n,) from 0 to 1, one a prompt.
        lengths: (n,) length of the response that may win, less that of the other.
        confidence: Level of the interval.

    Returns:
        None where no a is finite (all wins are 0, or all are 1), or there are fewer than two prompts.
    """
    if len(wins) < 2 or np.all(wins == 0) or np.all(wins == 1):
        return None
    spread = float(np.std(lengths))
    x = np.tanh(lengths / spread) if spread > 0 else np.zeros(len(wins))
    design, ridge = np.stack([np.ones_like(x), x], axis=1), np.array([0.0, 1.0])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ weights
        value = np.sum(np.logaddexp(0, logits) - wins * logits) + ridge @ weights**2 / 2
        return float(value), design.T @ (special.expit(logits) - wins) + ridge * weights

    weights = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    fitted = special.expit(design @ weights)
    inverse = np.linalg.inv(design.T @ (design * (fitted * (1 - fitted))[:, None]) + np.diag(ridge))
    half = _quantile(confidence) * np.sqrt(inverse[0, 0])
    low, value, high = special.expit(weights[0] + np.array([-half, 0.0, half]))
    return LengthControlled(float(value), (float(low), float(high)), float(weights[1]))


def _quantile(confidence: float) -> float:
    """Return how many standard deviations a two-sided interval reaches."""
    return float(special.ndtri(1 - tail_of(confidence, 2)))
