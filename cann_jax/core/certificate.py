"""Does a policy meet its margins? Verdicts with a stated confidence, from prompts that nothing has seen.

"Holds" is decided by a lower bound on a mean. A sample that happens to miss rare, bad outcomes looks good and
sure of itself, so that Student's bound says "holds" too often. The default method, ``"robust"``, lowers the
bound by the second-order term of a skewness γ towards bad outcomes, (t² − 1)/3·γ/√n standard errors (Cornish
and Fisher), and raises the upper bound likewise. ``benchmarks/certificate.py`` measures how often it errs.

* Where the range of the outcomes is known, the sample is given one outcome more, the worst, and γ is this
  sample's. For shares of rare events the bound is then close to the exact one of Clopper and Pearson.
* Where it is not, a small sample underestimates γ: six times its estimate is used, and five standard errors
  √(6/n) are added. On normal outcomes that costs a fiftieth of the power.

Skewness towards good outcomes is never used to the policy's advantage. Where the range is not known, nothing
guards against an outcome that is rarer than one in n and far worse than all that were seen: of 1 % that lie
13 deviations below the rest, false "holds" at 5 % were 4 to 13 % up to 160 prompts, 4 to 6 % at 320.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from cann_jax.core.arguments import check_all, tail_of
from cann_jax.core.arrays import Array, numbers
from cann_jax.core.compilation import on_host
from cann_jax.core.display import display
from cann_jax.files.errors import InputError

METHODS = ("robust", "student")
SKEWNESS_FACTOR, SKEWNESS_ERRORS = 6.0, 5.0
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

    def __repr__(self) -> str:
        """Return the verdict, and each constraint's, in one line."""
        columns = zip(self.verdicts, self.mean, self.lower, self.upper, strict=True)
        each = (f"{mean:.4g} [{low:.4g}, {high:.4g}] {verdict}" for verdict, mean, low, high in columns)
        return f"Certificate({self.verdict} at confidence {self.confidence:g}: {', '.join(each)})"

    def to_frame(self, names: Sequence[str] | None = None) -> Any:
        """Return a pandas ``DataFrame`` with a row for each constraint, by ``names`` or by number."""
        return display("frames:certificate_frame")(self, names)

    def _repr_html_(self) -> str:
        return str(display("html:certificate_html")(self))


@on_host
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
    prompts decide nothing, unless their range is a single value; nor does a sample whose values are all
    equal, unless their range is known. Runs on the host.

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
        InputError: Unknown method, confidence outside (0, 1), margins or differences that are not finite,
            differences outside their range, or numbers of margins or ranges that do not fit.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(METHODS)}")
    columns = [np.asarray(numbers("differences", each, np.float64)) for each in _columns(differences)]
    required = np.asarray(numbers("margins", margins, np.float64))
    if not columns:
        raise InputError("differences: of no constraint; give those of one at least")
    tail = tail_of(confidence, len(columns))
    check_all("margins", required, np.isfinite(required), "finite numbers")
    if required.shape not in ((), (len(columns),)):
        raise InputError(f"margins: {required.size} margins for {len(columns)} constraints; give one each")
    required = np.broadcast_to(required, (len(columns),))
    ends = [None] * len(columns) if ranges is None else list(ranges)
    if len(ends) != len(columns):
        raise InputError(f"ranges: {len(ends)} given for {len(columns)} constraints; give one each, or None")
    for j, (column, end) in enumerate(zip(columns, ends, strict=True)):
        _check(j, column, end)
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
    """What the bounds use of a sample: its central moments, and the range if it is to be used."""

    prompts: int
    mean: float
    variance: float
    third: float
    lowest: float | None
    highest: float | None
    robust: bool

    def mirrored(self) -> "_Sample":
        """Return the sample of the negated values."""
        lowest, highest = (None if end is None else -end for end in (self.highest, self.lowest))
        return self._replace(mean=-self.mean, third=-self.third, lowest=lowest, highest=highest)

    def with_value(self, value: float) -> "_Sample":
        """Return the sample with one value more."""
        prompts, shift = self.prompts + 1, value - self.mean
        kept, added = self.prompts / prompts, 1 / prompts
        variance = kept * (self.variance + added * shift**2)
        third = kept * (self.third - 3 * added * shift * self.variance + added * (kept - added) * shift**3)
        return self._replace(prompts=prompts, mean=self.mean + added * shift, variance=variance, third=third)


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
    # Scores are float32: one of 99.1 is 99.0999985, though the range from 99.1 to 100 is only .9 wide.
    rounding = 1e-6 * max(abs(ends[0]), abs(ends[1]), ends[1] - ends[0])
    if column.min() < ends[0] - rounding or column.max() > ends[1] + rounding:
        seen = f"{column.min():.6g} to {column.max():.6g}"
        raise InputError(f"ranges: differences {constraint} are {seen}, not within {ends[0]} to {ends[1]}")


def _summary(column: np.ndarray, ends: tuple[float, float] | None, method: str) -> _Sample:
    prompts, robust = len(column), method == "robust"
    mean = float(column.mean()) if prompts else np.nan
    spread = float(np.ptp(column)) if prompts else 0.0
    if robust and ends is None and spread > 0 and len(np.unique(column)) <= prompts / 2:
        ends = float(column.min()) - spread, float(column.max()) + spread
    variance, third = (float(np.mean((column - mean) ** n)) if spread > 0 else 0.0 for n in (2, 3))
    lowest, highest = ends if robust and ends is not None else (None, None)
    return _Sample(prompts, mean, variance, third, lowest, highest, robust)


def _lower(sample: _Sample, tail: float) -> float:
    """Return the lower bound on the mean, which is above it with a probability of about ``tail`` at most."""
    known = sample.lowest is not None
    if sample.lowest is not None and sample.lowest == sample.highest:
        return sample.lowest
    if sample.prompts < 2 or (sample.variance == 0 and not known):
        return -np.inf
    if sample.lowest is not None:
        sample = sample.with_value(sample.lowest)
    quantile = float(stdtrit(sample.prompts - 1, 1 - tail))
    skewness = _skewness_to_fear(sample, known)
    reach = quantile + max(quantile**2 - 1, 0) / 3 * skewness / np.sqrt(sample.prompts)
    return float(sample.mean - reach * np.sqrt(sample.variance / (sample.prompts - 1)))


def _skewness_to_fear(sample: _Sample, known: bool) -> float:
    """Return γ ≥ 0 towards low values; ``known``: the worst of them is in the sample."""
    if not sample.robust or sample.variance == 0:
        return 0.0
    estimate = max(-sample.third / sample.variance**1.5, 0.0)
    if not known:
        estimate = SKEWNESS_FACTOR * estimate + SKEWNESS_ERRORS * np.sqrt(6 / sample.prompts)
    return float(estimate)


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
