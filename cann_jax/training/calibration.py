"""How often a score model orders held-out pairs rightly, and whether its confidence is worth its name."""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

BINS = 10


@dataclass(frozen=True)
class Accuracy:
    """A share with its interval.

    Args:
        pairs: How many were judged.
        accuracy: Share ordered rightly; a tie is half right.
        interval: Wilson's interval (1927).
    """

    pairs: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Reliability:
    """Confidence σ(|difference|) of the model's choice, in bins, against how often it was right.

    Args:
        counts: (bins,) pairs in each bin.
        confidence: (bins,) their mean confidence; NaN in an empty bin.
        accuracy: (bins,) how often the choice was right; NaN in an empty bin.
        error: Expected calibration error, Σ counts·|confidence − accuracy| / pairs.
        log_loss: Mean −ln σ(difference in the direction of the label), nats; ln 2 without knowledge.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float
    log_loss: float


def accuracy(learnt: np.ndarray, confidence: float) -> Accuracy:
    """Of differences in the direction of the label, (n,).

    Args:
        learnt: Above zero where the pair is ordered rightly.
        confidence: Level of the interval.
    """
    right = float(np.sum(learnt > 0) + np.sum(learnt == 0) / 2)
    share, count = right / len(learnt), len(learnt)
    z = stats.norm.ppf((1 + confidence) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Accuracy(count, share, (float(centre - half), float(centre + half)))


def reliability(learnt: np.ndarray) -> Reliability:
    """Of differences in the direction of the label, (n,), in bins of equal width on [½, 1]."""
    confidence, right = special.expit(np.abs(learnt)), learnt > 0
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):  # an empty bin is 0/0
        means = [np.bincount(bins, values, BINS) / counts for values in (confidence, right)]
    error = np.nansum(counts * np.abs(means[0] - means[1])) / len(learnt)
    return Reliability(counts, *means, float(error), float(np.mean(np.logaddexp(0, -learnt))))
