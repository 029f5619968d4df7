"""How far along the trained step to go: the smallest scale of the adapter that meets every margin.

With a dial, also in which direction: the coefficients of the scores' adapters, from λ on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from cann_jax.config.run import RunConfig
from cann_jax.core.certificate import certify
from cann_jax.core.dial import Dial, Setting
from cann_jax.core.improvement import Drawn, improvements
from cann_jax.core.prepare import in_group
from cann_jax.core.problem import Constraint, Problem
from cann_jax.core.scale import Try
from cann_jax.data.responses import Responses
from cann_jax.files.numbers import decimals
from cann_jax.run.adapters import Policies, log_ratios, read_policies
from cann_jax.run.outputs import REFERENCE, REWARD, constraints_of, problem_of, write_scale
from cann_jax.run.policies import (
    Draw,
    Sampled,
    difference_range,
    differences,
    sample_policy,
    sample_reference,
)
from cann_jax.run.prompts import encoded_prompts, print_overlong
from cann_jax.run.results import number
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers

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
    """Write ``scale.json``.

    Files: besides it, responses and scores of the reference and of each policy that was tried.

    Raises:
        InputError: An adapter is zero, so that no scale of it changes anything; or a scorer fails.
    """
    config, folder = run.config, run.folder / "calibrate"
    policies = read_policies(run)
    prompts = encoded_prompts(run, "calibration")
    print_overlong("calibrate", prompts)
    scorers = load_scorers(run, config.constraint_scorers())
    draw = Draw(prompts, config.calibrate.responses, config.seed + CALIBRATION_SEED, folder)
    reference = sample_reference(run, scorers, draw, REFERENCE)

    whole = reference.responses
    unchanged = config.sample.temperature == config.sample.top_p == 1

    def tried(coefficients: np.ndarray) -> Tried:
        name = "-".join(f"{each:.4f}" for each in coefficients)
        policy = policies.policy(coefficients)
        found = sample_policy(run, scorers, policy, draw, f"scale-{name}")
        return Tried(found, log_ratios(policy, whole) if unchanged else None)

    unknown = {REWARD: np.zeros(whole.shape, np.float32)}  # a table's reward knows no new response
    problem = problem_of(config, unknown | dict(reference.scores), whole.groups())
    goals = _goals(run, problem)
    known = Dial(policies.log_ratios(whole), problem.scores, config.calibrate.largest)
    search = _search(config, goals, known, policies.start, reference, tried)
    rounds, step = "set rounds to 2 or more, which start from here", "set align.dial to false"
    _print(goals, search, step if config.align.dial else rounds)
    for line in _far_aims(goals, search.targets):
        print(f"calibrate: {line}")
    record = _record(goals, search)
    if config.align.dial:
        record |= _dial(policies, search.found, known.log_ratios, whole)
    write_scale(run, record)


def _goals(run: Run, problem: Problem) -> list[Goal]:
    groups = [prompt.group for prompt in encoded_prompts(run, "heldout").prompts]
    margins = zip(constraints_of(run.config), problem.names, np.asarray(problem.margins), strict=True)
    return [
        Goal(constraint, label, float(asked), int(in_group(constraint, groups).sum()))
        for constraint, label, asked in margins
    ]


class Tried(NamedTuple):
    """A policy that was sampled.

    Attributes:
        drawn: Its responses.
        reference_log_ratios: (N, K), its ℓ on the reference's responses; None where a temperature or a
            nucleus lets other distributions be drawn from than ℓ is of.
    """

    drawn: Sampled
    reference_log_ratios: np.ndarray | None


@dataclass(frozen=True)
class Search:
    """What a search for the scale found.

    Args:
        found: The coefficients, by a direction and the scale along it.
        targets: (m,), the improvements aimed at.
        tries: What the policies that were sampled on the way gave.
    """

    found: Setting
    targets: np.ndarray
    tries: list[Try] = field(default_factory=list)

    @property
    def confirmed(self) -> bool:
        """Whether a policy was sampled at about the setting; scale 0 is the reference itself."""
        if self.found.scale.scale == 0:
            return True
        return any(_near(each.coefficients, self.found.coefficients) for each in self.tries)


def _near(tried: np.ndarray, coefficients: np.ndarray) -> bool:
    return bool(np.max(np.abs(coefficients - tried)) <= CONFIRMED * np.max(np.abs(tried)))


def _search(
    config: RunConfig,
    goals: Sequence[Goal],
    known: Dial,
    start: np.ndarray,
    reference: Sampled,
    sample: Callable[[np.ndarray], Tried],
) -> Search:
    """Find the setting, sampling the policy where it is expected until one try confirms it."""
    limit = config.calibrate.kl_limit
    targets = np.array([_target(config, goal, reference) for goal in goals])
    search = Search(known.choose(start, [], targets, limit), targets)
    while len(search.tries) < config.calibrate.tries:
        direction, scale = search.found.direction, search.found.scale.scale
        if scale == 0 and not search.found.scale.met and not search.tries:
            # Weights that see no gain may be wrong, so that one policy is sampled all the same.
            along = known.along(direction)
            scale = float(along.scales[(along.kl <= limit) & (along.scales <= 1)].max())
        elif search.confirmed:
            break
        if scale == 0:
            break
        policy = sample(scale * direction)
        gains = [_gains(goal, reference, policy) for goal in goals]
        errors = np.array([_error(gain) for gain in gains])
        means = np.array([gain.mean() for gain in gains])
        tries = [*search.tries, Try(scale, means, errors, policy.drawn.kl, direction)]
        pairs = zip(goals, errors, strict=True)
        targets = np.array([_target(config, goal, reference, policy.drawn, error) for goal, error in pairs])
        search = Search(known.choose(start, tries, targets, limit), targets, tries)
    return search


def _gains(goal: Goal, reference: Sampled, policy: Tried) -> np.ndarray:
    """Return by prompt (n,) how much higher the policy scores than the reference."""
    before, after = _values(reference, goal), _values(policy.drawn, goal)
    # A level is asked of the policy's mean itself, which the reference's responses would only blur.
    if policy.reference_log_ratios is None or goal.constraint.margin is None:
        return np.asarray(after.mean(1) - before.mean(1))
    here = in_group(goal.constraint, reference.responses.groups())
    ratios = policy.reference_log_ratios[here], policy.drawn.log_ratios[here]
    return improvements(Drawn(before, ratios[0]), Drawn(after, ratios[1]))


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf


def _values(sampled: Sampled, goal: Goal) -> np.ndarray:
    values = sampled.values(goal.constraint)
    assert values is not None, "groups and scorers are checked before anything is sampled"
    return values.astype(np.float64)


def _target(
    config: RunConfig, goal: Goal, reference: Sampled, policy: Sampled | None = None, error: float = np.inf
) -> float:
    """Return the improvement to aim at.

    A ``policy`` that was sampled tells how widely the scores spread, and ``error`` is the standard error of
    its gain.
    """
    if config.calibrate.aim == "margin":
        return goal.asked
    both = [_values(sampled, goal) for sampled in (reference, policy or reference)]
    within = [values.var(1, ddof=1).mean() if values.shape[1] > 1 else 0.0 for values in both]
    # A margin is judged by differences, to which both policies' draws add; a level by the policy alone.
    noise = sum(within) if goal.constraint.margin is not None else within[1]
    here, there = config.calibrate.responses, config.evaluate.responses
    # Before anything is sampled, only the draws' own noise is known.
    found = None if policy is None else differences(goal.constraint, reference, policy)
    spread = noise / here if found is None or len(found) < 2 else float(found.var(ddof=1))
    bound = max(spread - noise / here, 0.0) + noise / there
    own = spread / len(both[0])
    if goal.constraint.margin is not None and np.isfinite(error):
        own = error**2
    takes = _reach(config, goal, found) * np.sqrt(bound / goal.heldout)
    # All constraints have to hold at once, with this chance.
    power = 1 - (1 - config.calibrate.power) / len(config.constraints)
    chance = ndtri(power) * np.sqrt(bound / goal.heldout + own)
    return float(goal.asked + takes + chance)


def _reach(config: RunConfig, goal: Goal, found: np.ndarray | None) -> float:
    """Return by how many standard errors the certificate's bound is below the mean."""
    delta = (1 - config.evaluate.confidence) / len(config.constraints)
    if found is not None and len(found) > 1:
        ends = [difference_range(goal.constraint)]
        seen = certify([found], goal.asked, 1 - delta, ranges=ends)
        error = _error(found)
        if error > 0 and np.isfinite(seen.lower[0]):
            return float((seen.mean - seen.lower)[0] / error)
    return float(stdtrit(max(goal.heldout - 1, 1), 1 - delta))


def _print(goals: Sequence[Goal], search: Search, otherwise: str) -> None:
    found = search.found.scale
    for goal, target, expected in zip(goals, search.targets, found.improvement, strict=True):
        digits = decimals(goal.asked, target)
        print(
            f"calibrate: {goal.label}: asked {number(goal.asked, digits)}, aimed at "
            f"{number(target, digits)}, expected {number(expected, digits)} at scale {found.scale:.3f} "
            f"(KL {found.kl:.2f} nats)"
        )
    if found.scale == 0:
        print("calibrate: at scale 0 the model is the reference")
    if not found.met:
        print(
            "calibrate: no scale within calibrate.kl_limit and calibrate.largest meets every aim; the "
            f"nearest is kept. Ask for less, train on more prompts, or {otherwise}"
        )
    if not search.confirmed:
        print(
            f"calibrate: no policy was sampled near scale {found.scale:.3f}; what is expected there comes "
            f"from {len(search.tries)} others. Raise calibrate.tries to see one"
        )


def _far_aims(goals: Sequence[Goal], targets: np.ndarray) -> Iterator[str]:
    """Yield a line a margin that is less than what the certificate takes beyond it, which more prompts lower.

    What it takes falls with the root of the number of prompts, held out and of the calibration.
    """
    for goal, target in zip(goals, targets, strict=True):
        takes = float(target - goal.asked)
        if 0 < goal.asked < takes:
            needed = int(np.ceil(goal.heldout * (takes / goal.asked) ** 2))
            yield (
                f"{goal.label}: the certificate of {goal.heldout} held-out prompts takes "
                f"{number(takes, decimals(takes))}, more than the margin; with about {needed:,}, and as many "
                "times the calibration prompts, as much"
            )


def _record(goals: Sequence[Goal], search: Search) -> dict[str, Any]:
    found = search.found.scale
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
        "tries": [_try_record(each) for each in search.tries],
    }


def _try_record(tried: Try) -> dict[str, Any]:
    # One prompt tells no error, and JSON has no infinity.
    errors = [float(error) if np.isfinite(error) else None for error in tried.error]
    return asdict(tried) | {"kl": np.float32(tried.kl), "error": errors}


def _dial(policies: Policies, found: Setting, log_ratios: np.ndarray, responses: Responses) -> dict[str, Any]:
    """Print and return how the dial is set, and whether adding weights does what adding log-probs would."""
    names, units = policies.run.config.experts(), policies.units
    assert units is not None, "a dial has units"
    began, multipliers = (units.multipliers(each) for each in (policies.start, found.direction))
    for name, value in multipliers.items():
        moved = "" if value == began[name] else f", moved from the dual's {began[name]:.4g}"
        print(f"calibrate: λ of {name}: {value:.4g}{moved}")
    coefficients = dict(zip(names, found.coefficients.tolist(), strict=True))
    print("calibrate: the dial is at " + ", ".join(f"{c:.3f} {name}" for name, c in coefficients.items()))
    linear = None
    if found.scale.scale > 0:
        linear = policies.linearity(found.coefficients, log_ratios, responses)
    for what, row in (linear or {}).items():
        if row is not None:
            print(
                f"calibrate: log-ratios of the added weights against added {what.replace('_', '-')}: "
                f"correlation {row['correlation']:.3f}, slope {row['slope']:.3f}"
            )
    return {"coefficients": coefficients, "multipliers": multipliers, "linear": linear}
