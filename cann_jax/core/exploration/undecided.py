"""What a sample leaves open, and how many prompts, or responses to each, would settle it.

A question is whether a mean over prompts reaches a value, where Student's bounds leave that undecided:

* Are the margins within reach? max_k ⟨w, g − ḡ⟩ against ⟨w, b⟩, along the tightest combination w.
* Does a constraint need its multiplier? Its improvement under the solution without it, against its margin.

Whether λ* meets the margins is no such question: by its conditions (KKT) the improvement equals the margin
wherever λ > 0, however many prompts there are.

The certificate counts the prompts at which the present estimate would be decided. Drawn anew, so many prompts
settle a question in half of the draws: Student's bound varies evenly about its mean, which the certificate's
robust bound, made for a final "holds", does not (a fifth of the draws at 60 prompts).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array
from cann_jax.core.certificate import Certificate, Verdict, certify
from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.uncertainty import mean_and_shares, predict_per_prompt, reference_per_prompt
from cann_jax.core.problem import Problem, weights_and_baseline
from cann_jax.core.scores import Scores, present
from cann_jax.core.solver.lanes import solve_lane
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, best_features, standardise

REACH = -1  # in place of a constraint's index


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
    """

    constraint: int
    asked: float
    estimate: float
    lower: float
    upper: float
    more_prompts: int | None
    more_responses: int | None = None


def open_questions(
    problem: Problem, solution: DualSolution, combination: np.ndarray, beta: float, confidence: float
) -> list[Question]:
    """Return what the sample leaves open at a confidence, that of both ends of an interval together.

    ``combination (m,)`` is the tightest one of ``reachability``, and [1] of one constraint.
    """
    of_each_end = (1 + confidence) / 2
    questions = list(_reach(problem, combination, of_each_end))
    if solution.converged:
        questions += _needs(problem, np.asarray(solution.multipliers), beta, of_each_end)
    return questions


def _reach(problem: Problem, combination: np.ndarray, confidence: float) -> Iterator[Question]:
    scores, targets, margins = problem.scores, problem.targets, np.asarray(problem.margins, float)
    table, weights = standardise(scores), weights_and_baseline(scores)[0]
    unit = np.asarray(table.spreads.constraints, float) / combination.clip(1e-12)
    required = float(np.sum(margins / unit))
    if required <= 0:  # any policy reaches them, the reference's own too
        return
    best = _best_response(table, jnp.asarray(combination, weights.dtype))
    mean, shares = _mean_and_shares(problem, best + _levels(problem))
    asked = margins + np.where(targets.is_level, np.asarray(weights_and_baseline(scores)[1], float), 0)
    inside = np.any(_inside(problem)[combination > 1e-3], axis=0)
    excess = np.sum((mean - asked) / unit) + inside.sum() * (shares / unit[:, None]).sum(0)[inside]
    if len(margins) == 1:
        value, scale = float(asked[0]), float(unit[0])
    else:
        value, scale = 1.0, 1 / required
    found = certify([value + scale * excess], [value], confidence, method="student")
    yield from _undecided([REACH], [value], found, inside[None])


@jax.jit
def _best_response(table: Table, combination: Array) -> Array:
    """Return ``(m, prompts)``: g − ḡ of the response that is best for the combination."""
    return best_features(table, combination) * table.spreads.constraints[:, None]


def _levels(problem: Problem) -> Array:
    """Return E_ref[g] of each prompt ``(m, prompts)`` where a level is asked for, else 0."""
    is_level = jnp.asarray(problem.targets.is_level)[:, None]
    return jnp.where(is_level, reference_per_prompt(problem.scores), 0)


def _needs(problem: Problem, multipliers: np.ndarray, beta: float, confidence: float) -> Iterator[Question]:
    scores, targets = problem.scores, problem.targets
    weights, baseline = weights_and_baseline(scores)
    asked = np.asarray(problem.margins + targets.is_level * baseline, float).tolist()
    inside, levels = _inside(problem), _levels(problem)
    without = [_without(problem, multipliers, j, beta) for j in range(len(asked))]
    terms = []
    for j, other in enumerate(without):
        mean, shares = _mean_and_shares(problem, predict_per_prompt(scores, other, beta)[1] + levels)
        terms.append(mean[j] + inside[j].sum() * shares[j][inside[j]])
    found = certify(terms, asked, confidence, method="student")
    for question in _undecided(range(len(asked)), asked, found, inside):
        j = question.constraint
        own = inside[j]
        noise, responses = _response_noise(scores, without[j], beta, j, bool(targets.is_level[j]))
        noise = noise[own] * (own.sum() * np.asarray(weights, float)[own]) ** 2
        by_draw, each = float(noise.mean()), float(responses[own].mean())
        more = _more_responses(question, terms[j], by_draw, each, len(own))
        yield dataclasses.replace(question, more_responses=more)


def _inside(problem: Problem) -> np.ndarray:
    """Return ``(m, prompts)``: the prompts with a weight that each constraint is about."""
    used = np.asarray(weights_and_baseline(problem.scores)[0]) > 0
    members = problem.targets.members
    every = np.ones((len(problem.names), len(used))) if members is None else np.asarray(members).T
    return (every > 0) & used


def _mean_and_shares(problem: Problem, values: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``(m,)`` and what each prompt adds to its error ``(m, prompts)``, in float64.

    A group's n prompts, as mean + n · share, have its mean, and Student's standard error of n prompts.
    """
    weights = weights_and_baseline(problem.scores)[0]
    mean, shares = mean_and_shares(values, weights, problem.targets.members)
    return np.asarray(mean, float), np.asarray(shares, float)


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


def _undecided(
    which: Sequence[int], asked: Sequence[float], found: Certificate, inside: np.ndarray
) -> Iterator[Question]:
    """Yield what is undecided; more prompts of those ``inside`` come with others, as in this sample."""
    for i, constraint in enumerate(which):
        if found.verdicts[i] == Verdict.UNDECIDED:
            needed, more = found.prompts_needed[i], None
            if needed is not None:
                more = int(np.ceil((needed - int(found.prompts[i])) / inside[i].mean()))
            ends = float(found.mean[i]), float(found.lower[i]), float(found.upper[i])
            yield Question(constraint, float(asked[i]), *ends, more)


def _more_responses(
    question: Question, terms: np.ndarray, noise: float, responses: float, prompts: int
) -> int | None:
    """Return how many more responses lower the variance as far as ``question.more_prompts`` would.

    Of the variance of the prompts' ``terms`` ``noise`` is from the draw of their responses, and shrinks as
    their number grows. ``prompts`` is the number of all prompts, of which ``more_prompts`` are more.
    """
    variance = float(terms.var())
    if question.more_prompts is None or noise < variance / 2:
        return None
    wanted = variance * prompts / (prompts + question.more_prompts)
    left = wanted - (variance - noise)
    return None if left <= 0 else int(np.ceil(responses * (noise / left - 1)))
