"""What a sample leaves open, and how many prompts, or responses to each, would settle it.

A question is whether a mean over prompts reaches a value, where Student's bounds leave that undecided:

* Are the margins within reach? max_k ⟨w, g − ḡ⟩ against ⟨w, b⟩, along the tightest combination w.
* Does a constraint need its multiplier? Its improvement under the solution without it, against its margin.

Whether λ* meets the margins is no such question: by its conditions (KKT) the improvement equals the margin
wherever λ > 0, however many prompts there are.

Counted are the prompts at which the present estimate would be decided. Drawn anew, so many prompts settle a
question in half of the draws: Student's bound varies evenly about its mean, which the certificate's robust
bound, made for a final "holds", does not (a fifth of the draws at 60 prompts). Prompts of uneven weights tell
as much as the effective number of them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cann_jax.core.arguments import tail_of
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.means import mean_and_shares, student_width
from cann_jax.core.exploration.per_prompt import predict_per_prompt, reference_per_prompt
from cann_jax.core.preference import pseudo_reward
from cann_jax.core.problem import Problem, weights_and_baseline
from cann_jax.core.scores import Scores, alike, effective_prompts, never_vary, present
from cann_jax.core.solver.lanes import solve_lane
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, best_features, standardise

REACH = -1  # in place of a constraint's index
LIMIT = 1e9  # prompts beyond which nobody waits for a decision


@dataclasses.dataclass(frozen=True)
class Question:
    """A mean whose interval holds the value asked for.

    Attributes:
        constraint: Index of the constraint that may not need its multiplier; ``REACH``: are the margins in
            reach?
        asked: The margin, or the level; 1 where several margins are asked about.
        estimate: What the sample gives; of several margins, the factor s* by which they can be scaled.
        lower: Its lower bound.
        upper: Its upper bound.
        more_prompts: How many more prompts like these settle it, in half of the draws, if the estimate is
            right; None: no number does.
        more_responses: How many more responses to each prompt do; None where the draw of responses is not
            most of the uncertainty, or where no number does.
        text: The question in words; what asks leaves it empty.
    """

    constraint: int
    asked: float
    estimate: float
    lower: float
    upper: float
    more_prompts: int | None
    more_responses: int | None = None
    text: str = ""


def open_questions(
    problem: Problem, solution: DualSolution, combination: np.ndarray, beta: float, confidence: float
) -> list[Question]:
    """Return what the sample leaves open at a confidence, that of both ends of an interval together.

    ``combination (m,)`` is the tightest one of ``reachability``, and [1] of one constraint. Nothing is open
    about scores that never differ between the responses to a prompt: no policy changes them, on any prompts.
    Nor about a multiplier without which no response is better than another: the policy is the reference.
    """
    tail = tail_of(confidence, 2)
    fixed = never_vary(problem.scores)
    inside = combination > 1e-3
    questions = [] if fixed[inside].all() else [*_reach(problem, combination, tail)]
    if solution.converged:
        varied = np.flatnonzero(~fixed).tolist()
        multipliers = np.asarray(solution.multipliers)
        questions += _needs(problem, varied, multipliers, beta, tail / len(problem.names))
    return questions


class _Mean(NamedTuple):
    """A mean over prompts, its plain standard error, and the effective number of its prompts."""

    value: float
    error: float
    prompts: float


def _reach(problem: Problem, combination: np.ndarray, tail: float) -> Iterator[Question]:
    scores, targets, margins = problem.scores, problem.targets, np.asarray(problem.margins, float)
    weights, baseline = jax.device_get(weights_and_baseline(scores))
    table = standardise(scores)
    unit = np.asarray(table.spreads.constraints, float) / combination.clip(1e-12)
    required = float(np.sum(margins / unit))
    if required <= 0:  # any policy reaches them, the reference's own too
        return
    best = _best_response(table, np.asarray(combination, weights.dtype))
    mean, shares = mean_and_shares(np.asarray(best) + _levels(problem), weights, targets.members)
    asked = margins + targets.is_level * np.asarray(baseline, float)
    value, scale = (float(asked[0]), float(unit[0])) if len(margins) == 1 else (1.0, 1 / required)
    excess, error = (
        np.sum((mean - asked) / unit),
        np.sqrt(np.sum(np.sum(shares / unit[:, None], axis=0) ** 2)),
    )
    about = problem.about(np.flatnonzero(combination > 1e-3))
    own = _Mean(value + scale * excess, scale * error, float(effective_prompts(weights * about)))
    yield from _undecided(REACH, value, own, tail, len(weights))


@jit()
def _best_response(table: Table, combination: Array) -> Array:
    """Return ``(m, prompts)``: g − ḡ of the response that is best for the combination."""
    return best_features(table, combination) * table.spreads.constraints[:, None]


def _levels(problem: Problem) -> np.ndarray:
    """Return E_ref[g] of each prompt ``(m, prompts)`` where a level is asked for, else 0."""
    is_level = np.asarray(problem.targets.is_level)[:, None]
    return np.where(is_level, np.asarray(reference_per_prompt(problem.scores)), 0)


def _needs(
    problem: Problem, constraints: Sequence[int], multipliers: np.ndarray, beta: float, tail: float
) -> Iterator[Question]:
    scores, targets, levels = problem.scores, problem.targets, _levels(problem)
    weights, baseline = (np.asarray(x, float) for x in weights_and_baseline(scores))
    asked = problem.margins + targets.is_level * baseline
    for j in constraints:
        without, about = _without(problem, multipliers, j, beta), problem.about([j])
        if not targets.is_level[j] and _is_reference(scores, without)[about].all():
            continue  # it improves nothing, on any prompts
        gains = np.asarray(predict_per_prompt(scores, without, beta)[1]) + levels
        mean, shares = (part[j] for part in mean_and_shares(gains, weights, targets.members))
        prompts = float(effective_prompts(weights * about))
        own = _Mean(float(mean), float(np.sqrt(np.sum(shares**2))), prompts)
        for question in _undecided(j, float(asked[j]), own, tail, len(weights)):
            noise, responses = _response_noise(scores, without, beta, j, bool(targets.is_level[j]))
            drawn, each = float(weights**2 @ noise), float(responses[about & (weights > 0)].mean())
            more = _more_responses(question, own.error**2, drawn, each, len(weights))
            yield dataclasses.replace(question, more_responses=more)


def _without(problem: Problem, multipliers: np.ndarray, constraint: int, beta: float) -> np.ndarray:
    """Return λ ``(m,)`` of the problem without a constraint."""
    if multipliers[constraint] == 0:
        return multipliers
    if len(multipliers) == 1:
        return np.zeros_like(multipliers)
    table = standardise(problem.scores)
    margins = np.array(problem.margins)
    # No policy moves a mean further than by √K spreads.
    reach = 2 * np.sqrt(table.reward.shape[-1]) * np.asarray(table.spreads.constraints)[constraint]
    margins[constraint] = -reach
    found = np.asarray(solve_lane(table, margins, beta, multipliers).multipliers)
    return np.where(np.isfinite(found), found, 0)


def _is_reference(scores: Scores, multipliers: np.ndarray) -> np.ndarray:
    """Return the prompts ``(prompts,)`` bool at which no response is better than another by r_λ."""
    return alike(np.asarray(pseudo_reward(scores, multipliers)), present(scores))


def _response_noise(
    scores: Scores, multipliers: np.ndarray, beta: float, constraint: int, level: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each prompt's improvement over draws of its responses, and their number.

    By linearising E_π[g] = Σ w·g/Σ w in the K draws; 0 for a single one, which tells nothing of it.
    """
    policy = np.asarray(tilted_weights(multipliers, scores, beta), float)
    there = present(scores)
    values = np.where(there, np.asarray(scores.constraints)[..., constraint], 0).astype(float)
    count = np.maximum(there.sum(-1, keepdims=True), 1)
    tilted = np.sum(policy * values, axis=-1, keepdims=True)
    moved = count * policy * (values - tilted)
    if not level:
        moved = moved - np.where(there, values - values.sum(-1, keepdims=True) / count, 0)
    return np.sum(moved**2, axis=-1) / (count * np.maximum(count - 1, 1))[:, 0], count[:, 0]


def _undecided(constraint: int, asked: float, own: _Mean, tail: float, prompts: int) -> Iterator[Question]:
    """Yield the question unless it is decided; all ``prompts`` of the sample come with those it is about.

    A mean without an error, of prompts that are all alike, decides nothing.
    """

    def width(count: float) -> float:
        return float(student_width(own.error * np.sqrt(own.prompts / count), count, 0, tail))

    reach = width(own.prompts) if own.error > 0 else np.inf
    lower, upper, gap = own.value - reach, own.value + reach, abs(own.value - asked)
    if lower >= asked or upper < asked:
        return
    more = None
    if np.isfinite(reach) and width(LIMIT) < gap:
        from scipy.optimize import brentq  # 0.15 s of imports that decided margins need not wait for

        needed = brentq(lambda count: width(count) - gap, own.prompts, LIMIT)
        # whole effective prompts more, as if each came with its share of the others
        more = int(np.ceil(np.ceil(needed - own.prompts) * prompts / own.prompts * (1 - 1e-6)))
    yield Question(constraint, asked, own.value, lower, upper, more)


def _more_responses(
    question: Question, variance: float, noise: float, responses: float, prompts: int
) -> int | None:
    """Return how many more responses lower the variance as far as ``question.more_prompts`` would.

    Of the ``variance`` of the mean ``noise`` is from the draw of each prompt's ``responses``, and shrinks as
    their number grows.
    """
    if question.more_prompts is None or noise < variance / 2:
        return None
    wanted = variance * prompts / (prompts + question.more_prompts)
    left = wanted - (variance - noise)
    return None if left <= 0 else int(np.ceil(responses * (noise / left - 1)))
