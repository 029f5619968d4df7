"""Everything the command says about one problem, computed once."""

import dataclasses

import jax
import numpy as np

from cann_jax.core import (
    Correction,
    CrossFit,
    DualSolution,
    Feasible,
    KLimit,
    Problem,
    Reachability,
    bootstrap,
    conservative_solution,
    correct_multipliers,
    cross_fit,
    interval,
    kl_limit,
    largest_margin,
    reachability,
    sensitivities,
    solve_dual,
)
from cann_jax.core.exploration.uncertainty import predict_per_prompt
from cann_jax.core.solver.lanes import lanes, solve_lane, solve_lanes
from cann_jax.core.table import standardise

POINTS, BETAS = 200, 41


@dataclasses.dataclass(frozen=True)
class Curve:
    """Solutions along one setting: ``margins (points, m)``, ``betas (points,)`` and a stacked solution."""

    margins: np.ndarray
    betas: np.ndarray
    solutions: DualSolution


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals (low, high) and the share of resamples that cannot reach the margins."""

    multipliers: tuple[np.ndarray, np.ndarray]
    predicted_reward: tuple[np.ndarray, np.ndarray]
    predicted_improvement: tuple[np.ndarray, np.ndarray]
    infeasible_share: float


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A solved problem; what needs a finite λ* is None where there is none."""

    problem: Problem
    beta: float
    confidence: float
    solution: DualSolution
    largest_margin: np.ndarray
    reachability: Reachability | None
    limit: KLimit
    by_margin: Curve
    by_beta: Curve
    intervals: Intervals | None = None
    correction: Correction | None = None
    conservative: tuple[DualSolution, np.ndarray] | None = None
    cross_fit: CrossFit | None = None
    sensitivities: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def feasible(self) -> Feasible:
        """The verdict; cutting planes decide for m > 1, where the solver alone may not."""
        return self.reachability.feasible if self.reachability else Feasible(int(self.solution.feasible))


def analyse(
    problem: Problem,
    beta: float,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
    method: str = "newton",
) -> Analysis:
    """Solve, certify and explore one problem.

    Args:
        problem: prepared scores and targets.
        beta: β > 0.
        confidence: of intervals and of the conservative λ.
        resamples: of the bootstrap; 0 leaves it out.
        seed: of resampling.
        method: of the solution itself; the curves and the bootstrap take Newton's many lanes always.
    """
    scores, margins = problem.scores, np.asarray(problem.margins)
    table = standardise(scores)
    if method == "newton":  # a lane of the program that the curves need anyway
        solution = solve_lane(table, margins, beta)
    else:
        solution = jax.device_get(solve_dual(scores, margins, beta, method))
    largest = np.asarray(largest_margin(scores))
    reach = None
    if len(margins) > 1 or solution.feasible == Feasible.UNDETERMINED:
        reach = reachability(scores, margins)
    path = _margin_path(problem, margins, beta, largest, reach)
    betas = np.append(beta * np.geomspace(0.25, 4, BETAS), beta).astype(np.float32)
    betas = np.sort(betas)
    result = Analysis(
        problem=problem,
        beta=beta,
        confidence=confidence,
        solution=solution,
        largest_margin=largest,
        reachability=reach,
        limit=kl_limit(scores, solution),
        by_margin=Curve(path, np.full(len(path), beta), solve_lanes(table, lanes(table, path, beta))),
        by_beta=Curve(
            np.broadcast_to(margins, (len(betas), len(margins))),
            betas,
            solve_lanes(table, lanes(table, margins, betas)),
        ),
    )
    if not solution.converged:
        return result
    return dataclasses.replace(result, **_uncertainty(result, margins, resamples, seed))


def _margin_path(problem: Problem, margins, beta: float, largest, reach: Reachability | None) -> np.ndarray:
    """``(points, m)``: one margin from what costs nothing to the largest; several scaled together."""
    if len(margins) == 1:
        free = np.asarray(predict_per_prompt(problem.scores, np.zeros_like(margins), beta)[1])
        start = min(0.0, float(margins[0]), float(np.mean(free)))
        return np.linspace(start, start + 0.985 * (largest - start), POINTS).astype(np.float32)
    furthest = 0.985 * reach.scale if np.isfinite(reach.scale) else 2.0
    return (np.linspace(0, furthest, POINTS)[:, None] * margins).astype(np.float32)


def _uncertainty(found: Analysis, margins: np.ndarray, resamples: int, seed: int) -> dict:
    problem, beta, multipliers = found.problem, found.beta, found.solution.multipliers
    scores, targets = problem.scores, problem.targets
    result = {
        "correction": correct_multipliers(scores, margins, beta, found.solution),
        "conservative": conservative_solution(scores, margins, beta, found.confidence, multipliers),
        "cross_fit": cross_fit(scores, targets, beta, seed) if len(scores.reward) > 3 else None,
        "sensitivities": jax.tree.map(np.asarray, sensitivities(scores, margins, beta, multipliers)),
    }
    if resamples:
        draws = bootstrap(scores, targets, beta, multipliers, resamples, seed)
        spans = [
            interval(samples, found.confidence)
            for samples in (draws.multipliers, draws.predicted_reward, draws.predicted_improvement)
        ]
        result["intervals"] = Intervals(*spans, float(draws.infeasible_share))
    return result
