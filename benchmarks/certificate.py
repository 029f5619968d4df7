"""How often a certificate says "holds" of a margin that the true mean only just misses, by method.

Differences are drawn with a true mean of zero, the margin, many times over for each distribution and number
of prompts; "holds" is then wrong, and must not be said more often than 1 − confidence. Candidates that were
not chosen are measured beside the methods of ``certify``. What honesty costs is the power on normal
differences.

    python benchmarks/certificate.py [--draws 10000]

Writes ``benchmarks/results/certificate.md``.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from cann_jax.core.certificate import METHODS, Verdict, certify

RESULTS = Path(__file__).resolve().parent / "results" / "certificate.md"
SIZES, POWER_SIZE = (32, 64, 160, 320), 256
Ends = tuple[float, float] | None
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def share(count: int, probability: float) -> Draw:
    """Return draws of the mean of ``count`` scores of 0 or 1."""
    return lambda rng, size: rng.binomial(count, probability, size) / count


def gap(policy: Draw, reference: Draw, mean: float) -> Draw:
    return lambda rng, size: policy(rng, size) - reference(rng, size) - mean


def far_below(bulk: Draw, mean: float) -> Draw:
    """Return draws of which one in a hundred is about −3, far below the bulk, less the mean of all."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        far = rng.random(size) < 0.01
        return np.where(far, rng.normal(-3, 0.24, size), bulk(rng, size)) - (0.99 * mean - 0.03)

    return draw


# name: draws with mean 0, and their range where a user would know it
CASES: dict[str, tuple[Draw, Ends]] = {
    "normal": (lambda rng, size: rng.normal(size=size), None),
    "exponential, bad tail": (lambda rng, size: 1 - rng.exponential(size=size), None),
    "lognormal, good tail": (lambda rng, size: np.exp(rng.normal(size=size)) - np.exp(0.5), None),
    "lognormal, bad tail": (lambda rng, size: np.exp(0.5) - np.exp(rng.normal(size=size)), None),
    "normal, 1 % far below": (far_below(lambda rng, size: rng.normal(0.12, 0.24, size), 0.12), None),
    "lognormal, 1 % far below": (
        far_below(lambda rng, size: 0.1 * np.exp(rng.normal(size=size)), 0.1 * np.exp(0.5)),
        None,
    ),
    "1 % good": (lambda rng, size: share(1, 0.01)(rng, size) - 0.01, (-0.01, 0.99)),
    "1 % bad": (lambda rng, size: 0.01 - share(1, 0.01)(rng, size), (-0.99, 0.01)),
    "3 % bad": (lambda rng, size: 0.03 - share(1, 0.03)(rng, size), (-0.97, 0.03)),
    "10 % bad": (lambda rng, size: 0.1 - share(1, 0.1)(rng, size), (-0.9, 0.1)),
    "1 − 4 of 0/1": (gap(share(1, 0.97), share(4, 0.9), 0.07), (-1.07, 0.93)),
    "2 − 6 of 0/1": (gap(share(2, 0.98), share(6, 0.8), 0.18), (-1.18, 0.82)),
    "2 − 2 of 0/1": (gap(share(2, 0.5), share(2, 0.5), 0.0), (-1.0, 1.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=10_000)
    given = parser.parse_args()
    began = time.monotonic()
    tables = [table(given.draws, 0.05, CANDIDATES), table(given.draws, 0.0125, PRODUCT)]
    seconds = time.monotonic() - began
    RESULTS.write_text(REPORT.format(*tables, power(given.draws), draws=given.draws, seconds=seconds))


def table(draws: int, tail: float, methods: dict[str, Callable]) -> str:
    """Return rows of the share of "holds", in per cent, for each case and size, a column a method."""
    lines = ["| differences | prompts | " + " | ".join(methods) + " |", "|---|---|" + "---|" * len(methods)]
    for number, (name, (draw, ends)) in enumerate(CASES.items()):
        for size in SIZES:
            values = draw(np.random.default_rng([number, size]), (draws, size))
            shares = [np.mean(method(values, tail, ends)) for method in methods.values()]
            cells = " | ".join(f"**{100 * x:.2f}**" if x > 1.1 * tail else f"{100 * x:.2f}" for x in shares)
            lines.append(f"| {name} | {size} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def power(draws: int) -> str:
    """Return rows of the power on normal differences, their mean some standard errors above the margin."""
    values = np.random.default_rng(0).normal(size=(draws, POWER_SIZE))
    shifts = (1.645, 2.0, 2.486, 3.0)
    lines = ["| method | " + " | ".join(f"{shift} SE" for shift in shifts) + " |", "|---" * 5 + "|"]
    for name, method in CANDIDATES.items():
        held = [100 * np.mean(method(values + shift / np.sqrt(POWER_SIZE), 0.05, None)) for shift in shifts]
        lines.append(f"| {name} | " + " | ".join(f"{x:.1f}" for x in held) + " |")
    return "\n".join(lines)


def certified(method: str, values: np.ndarray, tail: float, ends: Ends) -> np.ndarray:
    """Return whether ``certify`` says "holds" of each row."""
    ask = partial(certify, margins=0.0, confidence=1 - tail, method=method, ranges=[ends])
    return np.array([ask([row]).verdict == Verdict.HOLDS for row in values])


def johnson(values: np.ndarray, tail: float, ends: Ends) -> np.ndarray:
    """Student's t on Johnson's modified statistic."""
    count, mean, deviation = values.shape[1], values.mean(1), values.std(1, ddof=1)
    cubes = np.mean((values - mean[:, None]) ** 3, axis=1)
    skewness = cubes / np.maximum(values.std(1), 1e-9) ** 3
    quantile = stats.t.ppf(1 - tail, count - 1)
    correction = skewness * deviation / (6 * count) * (1 + 2 * quantile**2)
    return mean + correction - quantile * deviation / np.sqrt(count) >= 0


def bootstrap_t(values: np.ndarray, tail: float, ends: Ends, resamples: int = 999) -> np.ndarray:
    """The bootstrap of Student's statistic; the resamples are common to all rows."""
    count, mean, deviation = values.shape[1], values.mean(1), values.std(1, ddof=1)
    drawn = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn, centred = drawn.T.astype(np.float32), (values - mean[:, None]).astype(np.float32)
    shift = centred @ drawn / count
    variance = ((centred**2) @ drawn / count - shift**2) / (count - 1)
    flat = variance <= 1e-9 * deviation[:, None] ** 2
    statistics = np.where(flat, np.sign(shift) * 1e3, shift / np.sqrt(np.where(flat, 1, variance)))
    return mean - np.quantile(statistics, 1 - tail, axis=1) * deviation / np.sqrt(count) >= 0


def unseen(values: np.ndarray, tail: float, ends: Ends) -> np.ndarray:
    """Student's t with one outcome more: the worst possible, or the mean less the sample's range."""
    worst = values.mean(1) - np.ptp(values, axis=1) if ends is None else np.full(len(values), ends[0])
    more = np.concatenate([values, worst[:, None]], axis=1)
    reach = stats.t.ppf(1 - tail, values.shape[1]) * more.std(1, ddof=1) / np.sqrt(more.shape[1])
    return more.mean(1) - reach >= 0


def betting(values: np.ndarray, tail: float, ends: Ends) -> np.ndarray:
    """The predictable empirical-Bernstein bound of Waudby-Smith and Ramdas (2024); valid at every size."""
    if ends is None:
        return np.full(len(values), np.nan)
    scaled, count = (values - ends[0]) / (ends[1] - ends[0]), values.shape[1]
    seen = np.arange(1, count + 1)
    means = (0.5 + np.cumsum(scaled, axis=1)) / (seen + 1)
    variances = (0.25 + np.cumsum((scaled - means) ** 2, axis=1)) / (seen + 1)
    before = [np.concatenate([np.full((len(x), 1), start), x[:, :-1]], axis=1)
              for x, start in ((means, 0.5), (variances, 0.25))]  # fmt: skip
    bets = np.minimum(np.sqrt(2 * np.log(1 / tail) / (count * before[1])), 0.5)
    spent = np.sum((scaled - before[0]) ** 2 * (-np.log(1 - bets) - bets), axis=1)
    lower = (np.sum(bets * scaled, axis=1) - np.log(1 / tail) - spent) / np.sum(bets, axis=1)
    return lower >= -ends[0] / (ends[1] - ends[0])


PRODUCT = {name: partial(certified, name) for name in METHODS}
OTHERS = {"Johnson": johnson, "bootstrap-t": bootstrap_t, "one unseen": unseen, "betting": betting}
CANDIDATES = {**PRODUCT, **OTHERS}

REPORT = """\
# Certificates that are wrong

`python benchmarks/certificate.py`: {draws} draws each, {seconds:.0f} s in all. The true mean lies exactly at
the margin, so that every "holds" is wrong. "a − b of 0/1" is the mean of a scores of 0 or 1, less that of b
others; the range is given to `certify` where the scores are 0 or 1. "Far below" is 13 deviations below the
rest: without a range, no bound from few prompts can know of what none of them showed. `robust` is `certify`'s
default; the methods from Johnson's on are candidates that were not chosen.

## Share of "holds" at δ = .05, per cent (in bold: above 5.5)

{0}

## At δ = .0125, as for each of four constraints at .05, per cent (in bold: above 1.375)

{1}

## Power

Share of "holds", in per cent, on 256 normal differences, their mean so many standard errors above the margin.
No range is known, so betting has no bound.

{2}
"""

if __name__ == "__main__":
    main()
