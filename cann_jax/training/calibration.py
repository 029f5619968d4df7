"""How often a score model orders held-out pairs correctly, and how well its confidence is calibrated."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from scipy import special

from cann_jax.core.rates import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs ordered correctly, where a tie counts one half, with Wilson's interval (1927)."""

    pairs: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class SignAccuracy:
    """The share of responses on the right side of zero, and that of a cost that says one thing of all.

    Args:
        responses: How many there are.
        accuracy: The share on the right side, where a zero counts one half.
        interval: Wilson's, as that of ``Accuracy``.
        majority: What most of them are, ``safe`` or ``unsafe``.
        majority_share: The share that is: what always saying so would have.
    """

    responses: int
    accuracy: float
    interval: tuple[float, float]
    majority: str
    majority_share: float


@dataclass(frozen=True)
class Reliability:
    """The model's confidence in its choice, σ(|difference|), against how often it is right, in bins.

    Args:
        counts: (bins,) pairs in each bin.
        confidence: (bins,) their mean confidence; NaN in an empty bin.
        accuracy: (bins,) the share of correct choices; NaN in an empty bin.
        error: Expected calibration error, Σ counts·|confidence − accuracy| / pairs.
        log_loss: Mean −ln σ(difference in the direction of the label), nats; ln 2 without knowledge.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float
    log_loss: float


def accuracy(learnt: np.ndarray, confidence: float, prompts: Sequence[Hashable] | None = None) -> Accuracy:
    """Return the accuracy of differences (n,) in the direction of the label, at a level of confidence.

    Those of one prompt, of ``prompts`` (n,), may all be right or wrong together: the interval is that of
    (Σn_i)²/Σn_i² independent ones, n_i being the prompt's.
    """
    sizes = np.array(list(Counter(range(len(learnt)) if prompts is None else prompts).values()), float)
    found = rate((learnt > 0) + (learnt == 0) / 2, confidence, sizes.sum() ** 2 / np.sum(sizes**2))
    assert found.value is not None and found.interval is not None, "there are pairs"
    return Accuracy(len(learnt), found.value, found.interval)


def sign_accuracy(
    costs: np.ndarray, safe: np.ndarray, confidence: float, prompts: Sequence[Hashable]
) -> SignAccuracy:
    """Return how often costs (n,) are above zero where responses are unsafe, and below where they are safe.

    ``safe`` (n,) is 1 or 0; ``prompts`` (n,) as in ``accuracy``.
    """
    found, share = (
        accuracy(np.where(safe == 1, -costs, costs), confidence, prompts),
        float(np.mean(safe == 1)),
    )
    majority = "safe" if share >= 0.5 else "unsafe"
    return SignAccuracy(found.pairs, found.accuracy, found.interval, majority, max(share, 1 - share))


def reliability(learnt: np.ndarray) -> Reliability:
    """Return the reliability of differences (n,) in the direction of the label, in equal bins on [½, 1]."""
    learnt = np.asarray(learnt, np.float64)
    confidence, right = special.expit(np.abs(learnt)), learnt > 0
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):  # an empty bin is 0/0
        confidences, shares = (np.bincount(bins, values, BINS) / counts for values in (confidence, right))
    error = np.nansum(counts * np.abs(confidences - shares)) / len(learnt)
    log_loss = np.mean(np.logaddexp(0, -learnt))
    return Reliability(counts, confidences, shares, float(error), float(log_loss))


def draw_reliability(path: epath.PathLike, found: Reliability) -> None:
    """Write a PNG of the bins that hold pairs, sized by count, and the diagonal of a calibrated model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5))
    FigureCanvasAgg(figure)
    plot_reliability(figure.subplots(), found, "C0", "grey")
    figure.savefig(path, dpi=100, bbox_inches="tight")


def plot_reliability(axes: "Axes", found: Reliability, colour: str, muted: str) -> None:
    """Draw the bins that hold pairs, sized by count, and the diagonal of a calibrated model."""
    held = found.counts > 0
    axes.plot([0.5, 1], [0.5, 1], color=muted, linestyle=":", label="calibrated")
    axes.plot(found.confidence[held], found.accuracy[held], color=colour)
    sizes = 20 + 300 * found.counts[held] / found.counts.sum()
    axes.scatter(found.confidence[held], found.accuracy[held], sizes, color=colour, label="held-out pairs")
    axes.set(xlabel="confidence σ(|difference|)", ylabel="share ordered correctly", xlim=(0.48, 1.02))
    axes.set_ylim(min(0.3, float(np.min(found.accuracy[held]))) - 0.02, 1.02)
    axes.set_title(f"calibration error {found.error:.3f}")
    axes.legend(frameon=False, loc="lower right")
