"""Does a policy meet its margins? Verdicts with a stated confidence, from prompts that nothing has seen.

"Holds" is decided by a lower bound on a mean. A sample that happens to miss rare, bad outcomes looks good and
sure of itself, so that Student's bound says "holds" too often. The default method, ``"robust"``, lowers it in
two ways, and raises the upper bound likewise; ``benchmarks/certificate.py`` measures how often it errs:

* Skewness γ towards bad outcomes moves Student's t by (1 + 2t²)/6·γ/√n to first order (Johnson 1978). Small
  samples underestimate γ, so four times the estimate is used, and three standard errors √(6/n) are added; it
  is never used to the policy's advantage.
* Where the range of the outcomes is known, the sample is given one outcome more: the worst.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from cann_jax.core.arrays import Array
from cann_jax.files.errors import InputError

METHODS = ("robust", "student")
SKEWNESS_FACTOR, SKEWNESS_ERRORS = 4.0, 3.0
LIMIT = 10**9  # prompts beyond which nobody waits for a decision


class Verdict(enum.StrEnum):
    """What the data say of a margin at the confidence asked for."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Verdicts on m constraints, in their own order and units.

    Attributes:
        verdicts: One for each constraint; all of them are right at once with the confidence.
        mean: ``(m,)``, mean difference; NaN without a prompt.
        lower: ``(m,)``, lower bounds at confidence 1 − δ/m, with 1 − δ the confidence of the whole.
        upper: ``(m,)``, upper bounds at the same, each on its own.
        prompts: ``(m,)`` ints, of each constraint.
        prompts_needed: For undecided constraints, the number of prompts at which a sample like this one would
            decide; None where it is decided, or where no number would do.
        confidence: 1 − δ.
    """

    verdicts: tuple[Verdict, ...]
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    prompts: np.ndarray
    prompts_needed: tuple[int | None, ...]
    confidence: float

    @property
    def verdict(self) -> Verdict:
        """HOLDS if all constraints hold, FAILS if any fails."""
        if Verdict.FAILS in self.verdicts:
            return Verdict.FAILS
        return Verdict.UNDECIDED if Verdict.UNDECIDED in self.verdicts else Verdict.HOLDS


def certify(
    differences: Array | Sequence[Array],
    margins: Array | Sequence[float] | float,
    confidence: float = 0.95,
    *,
    method: str = "robust",
    ranges: Sequence[tuple[float, float] | None] | None = None,
) -> Certificate:
    """Decide for each constraint whether the mean difference over prompts reaches its margin.

    A margin holds if the lower bound reaches it, and fails if the upper bound is below it. Fewer than two
    prompts decide nothing; nor does a sample whose values are all equal, unless their range is known.

    Args:
        differences: ``(prompts, m)``, or m arrays ``(prompts of the constraint's group,)``: the mean score of
            the policy's responses to a prompt, less that of the reference's; for a level, the former alone.
        margins: b ``(m,)``, margins or levels; a scalar for all.
        confidence: Probability 1 − δ with which no verdict "holds" is wrong, and none "fails". Each of the m
            constraints gets δ/m.
        method: "robust" or "student".
        ranges: Lowest and highest value that a difference can take, None where unknown, for each constraint:
            (−1, 1) for scores of 0 and 1. Unknown ranges of values that repeat are taken to be thrice the
            sample's own.

    Raises:
        InputError: Unknown method, confidence outside (0, 1), differences that are not finite or outside
            their range, or numbers of margins or ranges that do not fit.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(METHODS)}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence}; give a number between 0 and 1")
    columns = [np.asarray(column, np.float64) for column in _columns(differences)]
    required = np.asarray(margins, np.float64)
    if required.shape not in ((), (len(columns),)):
        raise InputError(f"margins: {required.size} margins for {len(columns)} constraints; give one each")
    required = np.broadcast_to(required, (len(columns),))
    ends = [None] * len(columns) if ranges is None else list(ranges)
    if len(ends) != len(columns):
        raise InputError(f"ranges: {len(ends)} given for {len(columns)} constraints; give one each, or None")
    for j, (column, end) in enumerate(zip(columns, ends, strict=True)):
        _check(j, column, end)
    tail = (1 - confidence) / len(columns)
    samples = [_summary(*given, method) for given in zip(columns, ends, strict=True)]
    lower = np.array([_lower(sample, tail) for sample in samples])
    upper = np.array([-_lower(sample.mirrored(), tail) for sample in samples])
    verdicts = tuple(map(_verdict, lower, upper, required))
    needed = [_needed(*given, tail) for given in zip(samples, required, verdicts, strict=True)]
    return Certificate(
        verdicts=verdicts,
        mean=np.array([sample.mean for sample in samples]),
        lower=lower,
        upper=upper,
        prompts=np.array([sample.prompts for sample in samples]),
        prompts_needed=tuple(needed),
        confidence=confidence,
    )


class _Sample(NamedTuple):
    """What the bounds use of a sample; ``lowest`` and ``highest`` are None where no range is used."""

    prompts: int
    mean: float
    deviation: float
    skewness: float | None
    lowest: float | None
    highest: float | None

    def mirrored(self) -> "_Sample":
        """Return the sample of the negated values."""
        ends = (None if end is None else -end for end in (self.highest, self.lowest))
        skewness = None if self.skewness is None else -self.skewness
        return _Sample(self.prompts, -self.mean, self.deviation, skewness, *ends)

    def with_worst(self) -> "_Sample":
        """Return the sample with its lowest possible value added, skewness aside."""
        assert self.lowest is not None
        count = self.prompts + 1
        mean = self.mean + (self.lowest - self.mean) / count
        squares = (self.prompts - 1) * self.deviation**2 + self.prompts / count * (
            self.mean - self.lowest
        ) ** 2
        return _Sample(count, mean, float(np.sqrt(squares / self.prompts)), None, None, None)


def _columns(differences: Array | Sequence[Array]) -> list[Array]:
    if isinstance(differences, list | tuple):
        return list(differences)
    table = np.asarray(differences)
    if table.ndim != 2:
        raise InputError(f"differences have shape {table.shape}; give (prompts, m), or a list of m arrays")
    return list(table.T)


def _check(constraint: int, column: np.ndarray, ends: tuple[float, float] | None) -> None:
    if column.ndim != 1:
        raise InputError(f"differences {constraint} have shape {column.shape}; give (prompts,)")
    if not np.all(np.isfinite(column)):
        raise InputError(f"differences {constraint}: {np.sum(~np.isfinite(column))} are NaN or infinite")
    if ends is None or not len(column):
        return
    rounding = 1e-6 * (ends[1] - ends[0])
    if column.min() < ends[0] - rounding or column.max() > ends[1] + rounding:
        seen = f"{column.min():.6g} to {column.max():.6g}"
        raise InputError(f"ranges: differences {constraint} are {seen}, not within {ends[0]} to {ends[1]}")


def _summary(column: np.ndarray, ends: tuple[float, float] | None, method: str) -> _Sample:
    count = len(column)
    if count < 2:
        return _Sample(count, float(column.sum()) if count else np.nan, 0.0, None, None, None)
    mean, spread = float(column.mean()), float(np.ptp(column))
    deviation = float(column.std(ddof=1)) if spread > 0 else 0.0
    if method == "student":
        return _Sample(count, mean, deviation, None, None, None)
    if ends is None and spread > 0 and len(np.unique(column)) <= count / 2:
        ends = float(column.min()) - spread, float(column.max()) + spread
    skewness = float(np.mean(((column - mean) / column.std()) ** 3)) if spread > 0 else None
    return _Sample(count, mean, deviation, skewness, *(ends or (None, None)))


def _lower(sample: _Sample, tail: float) -> float:
    """Return the lower bound on the mean that is above it with a probability of about ``tail`` at most."""
    bounds = [-np.inf] if sample.lowest is None else []
    if sample.prompts >= 2 and sample.deviation > 0:
        bounds = [_student(sample, tail)]
    if sample.prompts >= 2 and sample.lowest is not None:
        bounds.append(_student(sample.with_worst(), tail))
    return min(bounds, default=-np.inf)


def _student(sample: _Sample, tail: float) -> float:
    """Return Student's lower bound, lowered for skewness where it is given."""
    quantile = float(stdtrit(sample.prompts - 1, 1 - tail))
    reach, root = quantile, np.sqrt(sample.prompts)
    if sample.skewness is not None:
        sure = SKEWNESS_FACTOR * -sample.skewness + SKEWNESS_ERRORS * np.sqrt(6 / sample.prompts)
        reach += (1 + 2 * quantile**2) / 6 * max(sure, 0) / root
    return float(sample.mean - reach * sample.deviation / root)


def _verdict(lower: float, upper: float, margin: float) -> Verdict:
    if lower >= margin:
        return Verdict.HOLDS
    return Verdict.FAILS if upper < margin else Verdict.UNDECIDED


def _needed(sample: _Sample, margin: float, verdict: Verdict, tail: float) -> int | None:
    """Return the least number of prompts at which the present moments would decide."""
    if verdict != Verdict.UNDECIDED or sample.prompts < 2 or sample.mean == margin:
        return None
    above = sample if sample.mean > margin else sample.mirrored()
    target = margin if sample.mean > margin else -margin

    def decides(count: int) -> bool:
        return _lower(above._replace(prompts=count), tail) >= target

    low, high = sample.prompts, 2 * sample.prompts
    while not decides(high):
        low, high = high, 2 * high
        if high > LIMIT:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
