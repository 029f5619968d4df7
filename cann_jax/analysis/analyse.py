"""The analysis of one problem: its solution, how certain it is, and the trade-off around it."""

import dataclasses
from typing import Any

import jax
import numpy as np

from cann_jax.analysis.reach import Features, Reach, find_reach
from cann_jax.analysis.wording import question_line
from cann_jax.core.exploration.conflict import Reachability, reachability, settle
from cann_jax.core.exploration.curve import sensitivities
from cann_jax.core.exploration.finite_sample import Correction, KLimit, correct_multipliers, kl_limit
from cann_jax.core.exploration.means import PromptMeans
from cann_jax.core.exploration.per_prompt import predict_per_prompt
from cann_jax.core.exploration.resampling import bootstrap
from cann_jax.core.exploration.uncertainty import (
    CrossFit,
    conservative_solution,
    cross_fit,
)
from cann_jax.core.exploration.undecided import Question, open_questions
from cann_jax.core.feasibility import Feasible, largest_margin
from cann_jax.core.problem import Problem, weights_and_baseline
from cann_jax.core.solver.lanes import lanes, solve_lane, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.solver.solve import solve_dual
from cann_jax.core.table import Table, standardise

POINTS, BETAS = 200, 41
LARGE = 1 << 22  # responses from which a point of a curve takes long: 0.2 s and more at 10⁶ prompts × 32
FEWER_POINTS, FEWER_BETAS = 32, 15


@dataclasses.dataclass(frozen=True)
class Curve:
    """Solutions along a path of settings.

    Attributes:
        margins: ``(points, m)``.
        betas: ``(points,)``.
        solutions: A solution whose leaves have a leading axis of points.
    """

    margins: np.ndarray
    betas: np.ndarray
    solutions: DualSolution


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals (low, high) of so many resamples, and the share that cannot reach the margins."""

    multipliers: tuple[np.ndarray, np.ndarray]
    predicted_reward: tuple[np.ndarray, np.ndarray]
    predicted_improvement: tuple[np.ndarray, np.ndarray]
    infeasible_share: float
    resamples: int


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A solved problem; fields that need a finite λ* are None where there is none."""

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
    reach: Reach | None = None
    questions: tuple[Question, ...] = ()

    @property
    def feasible(self) -> Feasible:
        """The verdict."""
        return Feasible(int(self.solution.feasible))


def analyse(
    problem: Problem,
    beta: float,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
    method: str = "newton",
    features: Features | None = None,
) -> Analysis:
    """Solve, certify and explore one problem.

    ``confidence`` is the level of the intervals and of the conservative λ; 0 ``resamples`` leave out the
    bootstrap's intervals.
    ``method`` is that of the solution itself; curves and bootstrap always use Newton's, for many at once.
    ``features`` tell what training can reach.

    Raises:
        InputError: Features that do not fit, or fewer prompts than their folds.
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
        solution = settle(solution, reach)  # the solver alone may not be able to decide
    by_margin, by_beta = _curves(problem, table, beta, largest, reach)
    del table  # as large as the scores, and made again where it is needed
    result = Analysis(
        problem=problem,
        beta=beta,
        confidence=confidence,
        solution=solution,
        largest_margin=largest,
        reachability=reach,
        limit=kl_limit(scores, solution),
        by_margin=by_margin,
        by_beta=by_beta,
    )
    tightest = np.ones(1) if reach is None else reach.combination
    asked = open_questions(problem, solution, tightest, beta, confidence)
    questions = [dataclasses.replace(q, text=question_line(problem.constraints, q)) for q in asked]
    result = dataclasses.replace(result, questions=tuple(questions))
    if features is not None:
        multipliers = np.asarray(solution.multipliers)
        found = find_reach(problem, features, beta, multipliers, confidence, resamples, seed)
        result = dataclasses.replace(result, reach=found)
    if not solution.converged:
        return result
    return dataclasses.replace(result, **_uncertainty(result, margins, resamples, seed))


def _curves(
    problem: Problem, table: Table, beta: float, largest: np.ndarray, reach: Reachability | None
) -> tuple[Curve, Curve]:
    """Return the solutions along margins, and along β."""
    margins = np.asarray(problem.margins)
    points, between = (FEWER_POINTS, FEWER_BETAS) if table.reward.size > LARGE else (POINTS, BETAS)
    path = _margin_path(problem, points, beta, largest, reach)
    betas = np.sort(np.append(beta * np.geomspace(0.25, 4, between), beta).astype(np.float32))
    every = np.broadcast_to(margins, (len(betas), len(margins)))
    return (
        Curve(path, np.full(len(path), beta), solve_lanes(table, lanes(table, path, beta))),
        Curve(every, betas, solve_lanes(table, lanes(table, margins, betas))),
    )


def _margin_path(
    problem: Problem, points: int, beta: float, largest: np.ndarray, reach: Reachability | None
) -> np.ndarray:
    """Return margins ``(points, m)``: one from what costs nothing to the largest, several scaled together."""
    margins = np.asarray(problem.margins)
    if len(margins) == 1:
        free = np.asarray(predict_per_prompt(problem.scores, np.zeros_like(margins), beta)[1])
        start = min(0.0, float(margins[0]), float(np.mean(free)))
        return np.linspace(start, start + 0.985 * (largest - start), points).astype(np.float32)
    furthest = 0.985 * reach.scale if reach is not None and np.isfinite(reach.scale) else 2.0
    return np.asarray(np.linspace(0, furthest, points)[:, None] * margins, np.float32)


def _uncertainty(found: Analysis, margins: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    problem, beta, multipliers = found.problem, found.beta, found.solution.multipliers
    scores, targets = problem.scores, problem.targets
    result: dict[str, Any] = {
        "correction": correct_multipliers(scores, margins, beta, found.solution),
        "cross_fit": cross_fit(scores, targets, beta, seed),
        "conservative": conservative_solution(scores, targets, beta, found.confidence, multipliers),
        "sensitivities": jax.tree.map(np.asarray, sensitivities(scores, margins, beta, multipliers)),
    }
    if resamples and problem.tells_errors:
        draws = bootstrap(scores, targets, beta, multipliers, resamples, seed)
        weights = np.asarray(weights_and_baseline(scores)[0])
        own = PromptMeans(weights, targets.members, len(margins), found.confidence)
        reward = own._replace(members=None).percentiles(draws.predicted_reward[:, None])
        result["intervals"] = Intervals(
            own.percentiles(draws.multipliers),
            (reward[0][0], reward[1][0]),
            own.percentiles(draws.predicted_improvement),
            float(draws.infeasible_share),
            resamples,
        )
    return result
