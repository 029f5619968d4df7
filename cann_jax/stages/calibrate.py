"""How far along the trained step to go: the smallest scale of the adapter that meets every margin."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from cann_jax.config.run import RunConfig
from cann_jax.core.certificate import certify
from cann_jax.core.problem import Constraint, Problem
from cann_jax.core.scale import Scale, Shape, Try, choose_scale, shape
from cann_jax.files.errors import InputError
from cann_jax.models.adapters.scale import is_zero, scaled
from cann_jax.models.language_model import LanguageModel
from cann_jax.run.outputs import REFERENCE, REWARD, constraints_of, problem_of, read_weights, write_scale
from cann_jax.run.policies import (
    Draw,
    Sampled,
    difference_range,
    differences,
    sample_policy,
    sample_reference,
)
from cann_jax.run.prompts import encoded_prompts, print_overlong
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers
from cann_jax.run.training import export, split_decoder

# Added to the run's seed: these draws are not those of the training prompts.
CALIBRATION_SEED = 3_000_017
CONFIRMED = 0.1  # a scale within this share of one that was sampled is not sampled again


@dataclass(frozen=True)
class Goal:
    """A constraint on the calibration prompts.

    Args:
        constraint: The constraint.
        label: Its name, with its group.
        asked: Improvement over the reference that it asks for.
        heldout: Held-out prompts that its certificate will be about.
    """

    constraint: Constraint
    label: str
    asked: float
    heldout: int


def run(run: Run) -> None:
    """Write ``scale.json``, and the scaled policy as ``align.export`` asks.

    Files: besides these, responses and scores of the reference and of each policy that was tried.

    Raises:
        InputError: The adapter is zero, so that no scale of it changes anything; or a scorer fails.
    """
    config, folder = run.config, run.folder / "calibrate"
    model = split_decoder(run, config.policy_lora)
    weights = read_weights(run, "align", model.reference)
    if is_zero(weights):
        raise InputError(
            "the adapter that was trained is zero, so no scale of it changes the model; raise "
            "align.optimizer.learning_rate or align.epochs, and check that the scores vary within a prompt"
        )
    prompts = encoded_prompts(run, "calibration")
    print_overlong("calibrate", prompts)
    scorers = load_scorers(run, config.constraint_scorers())
    draw = Draw(prompts, config.calibrate.responses, config.seed + CALIBRATION_SEED, folder)
    reference = sample_reference(run, scorers, draw, REFERENCE)

    def policy(scale: float) -> LanguageModel:
        return LanguageModel.of(model.decoder(scaled(weights, scale)), run.files)

    def sampled(scale: float) -> Sampled:
        return sample_policy(run, scorers, policy(scale), draw, f"scale-{scale:.4f}")

    whole = reference.responses
    unknown = {REWARD: np.zeros(whole.shape, np.float32)}  # a table's reward knows no new response
    problem = problem_of(config, unknown | dict(reference.scores), whole.groups())
    goals = _goals(run, problem)
    log_ratios = policy(1.0).logps(prompts.ids, whole.tokens, whole.lengths) - whole.logps
    known = shape(log_ratios, problem.scores, config.calibrate.largest)
    search = _search(config, goals, known, reference, sampled)
    _print(goals, search)
    write_scale(run, _record(goals, search))
    export(run, model.decoder(weights), config.align.export, folder, scale=search.found.scale)


def _goals(run: Run, problem: Problem) -> list[Goal]:
    groups = [prompt.group for prompt in encoded_prompts(run, "heldout").prompts]
    margins = zip(constraints_of(run.config), problem.names, np.asarray(problem.margins), strict=True)
    return [
        Goal(constraint, label, float(asked), sum(constraint.group in (None, group) for group in groups))
        for constraint, label, asked in margins
    ]


@dataclass(frozen=True)
class Search:
    """What a search for the scale found.

    Args:
        found: The scale.
        targets: (m,), the improvements aimed at.
        tries: What the policies that were sampled on the way gave.
    """

    found: Scale
    targets: np.ndarray
    tries: list[Try]

    @property
    def confirmed(self) -> bool:
        """Whether a policy was sampled at about the scale; scale 0 is the reference itself."""
        return self.found.scale == 0 or any(_near(each.scale, self.found.scale) for each in self.tries)


def _near(tried: float, scale: float) -> bool:
    return abs(scale - tried) <= CONFIRMED * tried


def _search(
    config: RunConfig,
    goals: Sequence[Goal],
    known: Shape,
    reference: Sampled,
    sampled: Callable[[float], Sampled],
) -> Search:
    """Find the scale, sampling the policy where it is expected until one try confirms it."""
    limit = config.calibrate.kl_limit
    targets = np.array([_target(config, goal, reference, reference) for goal in goals])
    search = Search(choose_scale(known, [], targets, limit), targets, [])
    while len(search.tries) < config.calibrate.tries:
        scale = search.found.scale
        if scale == 0 and not search.found.met and not search.tries:
            # Weights that see no gain may be wrong, so that one policy is sampled all the same.
            scale = float(known.scales[(known.kl <= limit) & (known.scales <= 1)].max())
        elif search.confirmed:
            break
        if scale == 0:
            break
        policy = sampled(scale)
        tries = [*search.tries, _try(scale, goals, reference, policy)]
        targets = np.array([_target(config, goal, reference, policy) for goal in goals])
        search = Search(choose_scale(known, tries, targets, limit), targets, tries)
    return search


def _try(scale: float, goals: Sequence[Goal], reference: Sampled, policy: Sampled) -> Try:
    gains = [_values(policy, goal).mean(1) - _values(reference, goal).mean(1) for goal in goals]
    return Try(
        scale,
        np.array([gain.mean() for gain in gains]),
        np.array([gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf for gain in gains]),
        policy.kl,
    )


def _values(sampled: Sampled, goal: Goal) -> np.ndarray:
    values = sampled.values(goal.constraint)
    assert values is not None, "groups and scorers are checked before anything is sampled"
    return values.astype(np.float64)


def _target(config: RunConfig, goal: Goal, reference: Sampled, policy: Sampled) -> float:
    """Return the improvement to aim at; ``policy`` tells how widely the scores spread."""
    if config.calibrate.aim == "margin":
        return goal.asked
    both = [_values(sampled, goal) for sampled in (reference, policy)]
    within = [values.var(1, ddof=1).mean() if values.shape[1] > 1 else 0.0 for values in both]
    # A margin is judged by differences, to which both policies' draws add; a level by the policy alone.
    noise = sum(within) if goal.constraint.margin is not None else within[1]
    here, there = config.calibrate.responses, config.evaluate.responses
    # Before anything is sampled, only the draws' own noise is known.
    found = None if policy is reference else differences(goal.constraint, reference, policy)
    spread = noise / here if found is None or len(found) < 2 else float(found.var(ddof=1))
    bound = max(spread - noise / here, 0.0) + noise / there
    takes = _reach(config, goal, found) * np.sqrt(bound / goal.heldout)
    chance = stats.norm.ppf(config.calibrate.power) * np.sqrt(bound / goal.heldout + spread / len(both[0]))
    return float(goal.asked + takes + chance)


def _reach(config: RunConfig, goal: Goal, found: np.ndarray | None) -> float:
    """Return by how many standard errors the certificate's bound is below the mean."""
    delta = (1 - config.evaluate.confidence) / len(config.constraints)
    if found is not None and len(found) > 1:
        ends = [difference_range(goal.constraint)]
        seen = certify([found], goal.asked, 1 - delta, ranges=ends)
        error = found.std(ddof=1) / np.sqrt(len(found))
        if error > 0 and np.isfinite(seen.lower[0]):
            return float((seen.mean - seen.lower)[0] / error)
    return float(stats.t.ppf(1 - delta, max(goal.heldout - 1, 1)))


def _print(goals: Sequence[Goal], search: Search) -> None:
    found = search.found
    for goal, target, expected in zip(goals, search.targets, found.improvement, strict=True):
        print(
            f"calibrate: {goal.label}: asked {goal.asked:+.3f}, aimed at {target:+.3f}, "
            f"expected {expected:+.3f} at scale {found.scale:.3f} (KL {found.kl:.2f} nats)"
        )
    if not found.met:
        print(
            "calibrate: no scale within calibrate.kl_limit and calibrate.largest meets every aim; the "
            "nearest is kept. Lower the margin, train on more prompts, or set rounds to 2 or more, which "
            "start from here"
        )
    if not search.confirmed:
        print(
            f"calibrate: no policy was sampled near scale {found.scale:.3f}; what is expected there comes "
            f"from {len(search.tries)} others. Raise calibrate.tries to see one"
        )


def _record(goals: Sequence[Goal], search: Search) -> dict[str, Any]:
    found = search.found
    by_name = {
        # Their precision is float32's, and they are written as such: 0.2, not 0.20000000298.
        goal.constraint.name: {
            "asked": np.float32(goal.asked),
            "target": np.float32(target),
            "expected": expected,
        }
        for goal, target, expected in zip(goals, search.targets, found.improvement, strict=True)
    }
    return {
        "scale": found.scale,
        "met": found.met,
        "confirmed": search.confirmed,
        "kl": found.kl,
        "constraints": by_name,
        "tries": [asdict(each) | {"kl": np.float32(each.kl)} for each in search.tries],
    }
