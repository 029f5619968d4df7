"""Coverage of the forecast's intervals on tables drawn with known truth.

A response's scores are linear in its features, plus a part that is not linear in them, plus noise; the scale
of the linear part differs by prompt. Each table is predicted, solved and forecast as a run does it. The truth
is what policies do on many fresh prompts: those of the fold models (each for the prompts it predicted), or
the one of a fit to all of the prompts.

    python benchmarks/forecast.py [--tables 200] [--prompts 64 128 448]

Writes ``benchmarks/results/forecast.md``.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.attainable import attained, solve_attainable
from cann_jax.core.exploration.forecast import attainable_intervals, forecast
from cann_jax.core.prediction import Predicted, folds_of, predict_scores
from cann_jax.core.problem import Constraint, make_targets
from cann_jax.core.scores import Scores

RESULTS = Path(__file__).resolve().parent / "results" / "forecast.md"
RESPONSES, FEATURES, FOLDS, FRESH, BETA, MARGIN = 6, 24, 8, 8000, 0.5, 0.3
QUANTITIES = ("improvement", "reward", "kl", "multipliers", "ceiling")
TILTS = np.concatenate([np.linspace(0, 4, 41), np.geomspace(4.4, 100, 20)]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 128, 448])
    given = parser.parse_args()
    began, rows = time.monotonic(), []
    for prompts in given.prompts:
        found = [judge(seed, prompts) for seed in range(given.tables)]
        solved = [each for each in found if each is not None]
        rows.append((prompts, len(solved), np.mean(solved, axis=0)))
        print(rows[-1], flush=True)
    RESULTS.write_text(report(given, rows, time.monotonic() - began))


def judge(seed: int, prompts: int) -> np.ndarray | None:
    """Return whether each interval covers each truth (2, quantities); None: the margin is out of reach."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(2, FEATURES)) * 0.8 / np.sqrt(FEATURES)
    features, scores = draw(rng, slopes, prompts)
    folds = folds_of(prompts, FOLDS, seed)
    predicted = predict_scores(features, scores, folds)
    solution = solve_attainable(scores, predicted, MARGIN, BETA)
    if not solution.converged:
        return None
    targets = make_targets([Constraint("g", margin=MARGIN)], np.float32)
    seen = vars(forecast(scores, predicted, targets, solution.multipliers, BETA))
    seen |= vars(attainable_intervals(scores, solution, targets, BETA, seed=seed))
    fresh = draw(rng, slopes, FRESH)
    by_fold = [fitted(features, scores, predicted, folds != fold) for fold in range(FOLDS)]
    sizes = np.bincount(folds, minlength=FOLDS)
    everyone = fitted(features, scores, predicted, folds >= 0)
    truths = (
        truth(by_fold, sizes, fresh, solution.multipliers),
        truth([everyone], [1], fresh, solution.multipliers),
    )
    estimates = [seen[name] for name in QUANTITIES]
    return np.array([list(map(covers, estimates, each)) for each in truths])


def draw(rng: np.random.Generator, slopes: np.ndarray, prompts: int) -> tuple[np.ndarray, Scores]:
    """Return centred features and the scores of as many prompts."""
    features = rng.normal(size=(prompts, RESPONSES, FEATURES)).astype(np.float32)
    features -= features.mean(1, keepdims=True)
    scale = np.exp(0.4 * rng.normal(size=(prompts, 1)))
    noise = rng.normal(size=(2, prompts, RESPONSES))
    curved = 0.3 * features[..., 0] * features[..., 1]
    reward, constraint = (
        scale * (features @ slope) + 0.5 * np.sin(2 * features[..., i]) + curved + noise[i]
        for i, slope in enumerate(slopes)
    )
    return features, Scores(reward.astype(np.float32), constraint[..., None].astype(np.float32))


def fitted(features: np.ndarray, scores: Scores, predicted: Predicted, inside: np.ndarray) -> np.ndarray:
    """Return the coefficients ``(2, F)`` of a fit to some of the prompts, times the slopes."""
    rows = features[inside].reshape(-1, FEATURES)
    found = []
    for target, values in enumerate((scores.reward, scores.constraints[..., 0])):
        values = (values - values.mean(1, keepdims=True))[inside].ravel()
        gram = rows.T @ rows + float(predicted.strengths[target]) * np.eye(FEATURES)
        found.append(np.linalg.solve(gram, rows.T @ values) * max(float(predicted.slopes[target]), 0))
    return np.stack(found).astype(np.float32)


def truth(
    models: list[np.ndarray], sizes: np.ndarray, fresh: tuple[np.ndarray, Scores], multipliers: np.ndarray
) -> list[float]:
    """Return what the models do on fresh prompts, in the order of ``QUANTITIES``."""
    share = np.asarray(sizes) / np.sum(sizes)
    at, along = np.zeros(3), np.zeros(len(TILTS))
    for weight, model in zip(share, models, strict=True):
        own, path = measured(*fresh, model, multipliers)
        at, along = at + weight * np.asarray(own), along + weight * np.asarray(path)
    first = int(np.argmax(along >= MARGIN))
    reached = along[first] >= MARGIN
    step = (MARGIN - along[first - 1]) / (along[first] - along[first - 1]) if first else 0.0
    needed = TILTS[first - 1] + step * (TILTS[first] - TILTS[first - 1]) if first else 0.0
    return [*at, needed if reached else np.inf, along.max()]


@jax.jit
def measured(features, scores, model, multipliers):
    """Return improvement, reward and KL at λ, and the improvement along ``TILTS``."""
    nothing = jnp.zeros(2)
    predicted = Predicted(features @ model[0], (features @ model[1])[..., None], nothing, nothing, nothing)

    def means(at):
        seen = attained(scores, predicted, at, BETA)
        return jnp.mean(seen.improvement), jnp.mean(seen.reward), jnp.mean(seen.kl)

    return means(multipliers), jax.lax.map(lambda tilt: means(tilt[None])[0], jnp.asarray(TILTS))


def covers(estimate, value: float) -> bool:
    return bool(np.squeeze(estimate.low) <= value <= np.squeeze(estimate.high))


def report(given: argparse.Namespace, rows: list, seconds: float) -> str:
    lines = []
    for prompts, solved, shares in rows:
        for name, values in zip(("fold models", "fit to all"), shares, strict=True):
            cells = " | ".join(f"{100 * value:.1f}" for value in values)
            lines.append(f"| {prompts} | {solved} | {name} | {cells} |")
    return REPORT.format(
        tables=given.tables, k=RESPONSES, f=FEATURES, folds=FOLDS, fresh=FRESH, margin=MARGIN, beta=BETA,
        seconds=seconds, header=" | ".join(QUANTITIES), rule="---|" * (3 + len(QUANTITIES)),
        rows="\n".join(lines),
    )  # fmt: skip


REPORT = """\
# Coverage of the forecast

`python benchmarks/forecast.py`: {tables} tables for each number of prompts, {k} responses a prompt,
{f} features, {folds} folds, margin {margin}, β {beta}; truth from {fresh} fresh prompts. How often, in
per cent, the 95 % interval holds the truth; tables whose margin was out of reach are left out.
{seconds:.0f} s in all.

| prompts | tables | truth | {header} |
|{rule}
{rows}

Means have Student's t intervals over prompts; λ and the ceiling have percentiles of a bootstrap with 200
resamples, widened likewise, the ceiling's reflected at the estimate. The standard error of a share of
200 tables is 1.5.
"""

if __name__ == "__main__":
    main()
