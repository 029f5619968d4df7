"""How often intervals and conservative multipliers hold what they say, on tables whose truth is known.

Tables are drawn many times over from one population of prompts, for each kind of constraint and number of
prompts. Within a prompt r and g are Gaussian, so that the policy at K = ∞ has a closed form (a tilt moves
their means by covariances, and odds by exp λ); that at K responses is measured on 20,000 prompts more.

    python benchmarks/coverage.py [--tables 1000] [--resampled 300] [--sizes 50 200 800] [--cases margin …]

Appends to ``benchmarks/results/coverage.jsonl``, and writes ``coverage.md`` from all of it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, softmax

from cann_jax.core.exploration.finite_sample import correct_multipliers
from cann_jax.core.exploration.means import PromptMeans
from cann_jax.core.exploration.resampling import bootstrap
from cann_jax.core.exploration.uncertainty import conservative_solution
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint, Problem, weights_and_baseline
from cann_jax.core.solver.lanes import solve_lane
from cann_jax.core.table import standardise

RESULTS = Path(__file__).resolve().parent / "results"
BETA, RESPONSES, MANY = 1.0, 16, 64
SIZES = (50, 200, 800)
CORRELATIONS = np.array([-0.5, -0.2])  # of each constraint with the reward
POPULATION = 20_000
LAMBDAS = np.linspace(0, 6, 61)  # between which what is reached is interpolated; off by 1e-4 at most
CASES = {
    "margin": [Constraint("g0", margin=0.5)],
    "at_least": [Constraint("g0", at_least=0.5)],
    "max_unsafe": [Constraint("g0", max_unsafe=0.3, unsafe_below=0.0)],
    "group": [Constraint("g0", margin=0.5, group="a")],
    "group at_least": [Constraint("g0", at_least=0.5, group="a")],
    "weights": [Constraint("g0", margin=0.5)],
    "two margins": [Constraint("g0", margin=0.4), Constraint("g1", margin=0.3)],
    "two levels": [Constraint("g0", at_least=0.4), Constraint("g1", at_least=0.3)],
}


class Prompts(NamedTuple):
    """Levels and spreads of the scores of prompts ``(prompts,)``, their weights and group."""

    level: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    inside: np.ndarray


def draw_prompts(rng: np.random.Generator, count: int, case: str) -> Prompts:
    weights = rng.gamma(2.0, size=count) if case == "weights" else np.ones(count)
    inside = rng.random(count) < (0.4 if "group" in case else 2)
    spread = np.exp(0.3 * rng.normal(size=count) - 0.09) * np.where(inside, 1, 1.5)
    return Prompts(0.7 * rng.normal(size=count), spread, weights, inside)


def draw_scores(rng: np.random.Generator, prompts: Prompts, responses: int) -> tuple[np.ndarray, np.ndarray]:
    """Return reward ``(prompts, responses)`` and raw scores ``(prompts, responses, 2)``."""
    size, scale = (len(prompts.level), responses), prompts.spread[:, None]
    reward = rng.normal(size=size)
    noise = rng.normal(size=(*size, 2)) * np.sqrt(1 - CORRELATIONS**2)
    scores = scale[..., None] * (CORRELATIONS * reward[..., None] + noise)
    return scale * reward, scores + prompts.level[:, None, None]


def draw_problem(rng: np.random.Generator, case: str, count: int, responses: int) -> Problem:
    prompts = draw_prompts(rng, count, case)
    reward, scores = (x.astype(np.float32) for x in draw_scores(rng, prompts, responses))
    named = {f"g{j}": scores[..., j] for j in range(2)}
    weights = prompts.weights.astype(np.float32)
    return prepare(reward, named, CASES[case], groups={"a": prompts.inside}, prompt_weights=weights)


class Truth:
    """What policies reach in the population, at K responses or in the limit, by raw λ ``(m,)``."""

    def __init__(self, case: str, responses: int | None) -> None:
        rng = np.random.default_rng(12345)
        constraints, self.count = CASES[case], len(CASES[case])
        prompts = draw_prompts(rng, POPULATION * (1 if responses else 20), case)
        inside = prompts.inside
        own = prompts.weights[inside] / prompts.weights[inside].sum()
        self.targets = np.array([c.target for c in constraints])
        self.level = np.array([c.margin is None for c in constraints])
        part = Prompts(*(x[inside] for x in prompts))
        self.own, self.part, self.case, self.grid = own, part, case, None
        self.scores = None if responses is None else draw_scores(rng, part, responses)
        if self.scores is not None:
            raw = self.scores[1][..., : self.count]
            self.reference = self.own @ (raw >= 0 if case == "max_unsafe" else raw).mean(1)
        if self.count == 1:
            self.grid = np.array([self._reached(np.array([x])) for x in LAMBDAS])

    def reached(self, multipliers: np.ndarray) -> np.ndarray:
        """Return improvements or levels ``(m,)``."""
        if self.grid is None:
            return self._reached(multipliers)
        return np.array([np.interp(multipliers[0], LAMBDAS, self.grid[:, 0])])

    def holds(self, multipliers: np.ndarray) -> bool:
        return bool(np.all(np.isfinite(multipliers)) and np.all(self.reached(multipliers) >= self.targets))

    def multiplier(self) -> float:
        """Return λ* of one constraint."""
        return float(brentq(lambda x: self.reached(np.array([x]))[0] - self.targets[0], 0, LAMBDAS[-1]))

    def improvement(self, multipliers: np.ndarray) -> np.ndarray:
        """Return the improvement ``(m,)`` over the reference."""
        return self.reached(multipliers) - self.level * self.reference

    def _reached(self, multipliers: np.ndarray) -> np.ndarray:
        if self.scores is None:
            return self._limit(multipliers)
        reward, scores = self.scores
        scores = (scores >= 0).astype(float) if self.case == "max_unsafe" else scores
        scores = scores[..., : self.count]
        policy = softmax((reward + scores @ multipliers) / BETA, axis=1)
        means = np.einsum("nk,nkm->nm", policy, scores)
        return self.own @ (means - (~self.level) * scores.mean(1))

    def _limit(self, multipliers: np.ndarray) -> np.ndarray:
        level, square = self.part.level, self.part.spread**2
        if self.case == "max_unsafe":  # the reward's tilt moves the mean, λ the odds of being safe
            z = (level + CORRELATIONS[0] * square / BETA) / self.part.spread
            return np.array([self.own @ expit(log_ndtr(z) - log_ndtr(-z) + multipliers[0] / BETA)])
        correlations = CORRELATIONS[: self.count]
        covariance = np.outer(correlations, correlations)
        np.fill_diagonal(covariance, 1)
        moved = (self.own @ square) * (correlations + covariance @ multipliers) / BETA
        return moved + self.level * (self.own @ level)


def measure(case: str, count: int, responses: int, tables: int, resampled: int) -> dict:
    """Return shares of the tables for which each claim held."""
    began, truths = time.monotonic(), {"K": Truth(case, responses), "limit": Truth(case, None)}
    held: dict[str, list[bool]] = {}

    def note(name: str, value: bool) -> None:
        held.setdefault(name, []).append(bool(value))

    for number in range(tables):
        problem = draw_problem(np.random.default_rng([number, count, responses]), case, count, responses)
        shares, margins = np.asarray(problem.targets.shares), np.asarray(problem.margins)
        plug_in = solve_lane(standardise(problem.scores), margins, BETA)
        careful, raised = conservative_solution(
            problem.scores, problem.targets, BETA, initial=plug_in.multipliers
        )
        found = careful.multipliers / shares
        note("conservative", truths["K"].holds(found))
        if responses >= MANY:
            note("conservative, at K = ∞", truths["limit"].holds(found))
            if careful.converged:
                corrected = correct_multipliers(problem.scores, raised, BETA, careful)
                found = corrected.multipliers / shares
                note("conservative and corrected, at K = ∞", truths["limit"].holds(found))
                note("correction given", not corrected.reason)
        if number < resampled and responses < MANY and len(margins) == 1:
            draws = bootstrap(problem.scores, problem.targets, BETA, plug_in.multipliers, seed=number)
            weights = np.asarray(weights_and_baseline(problem.scores)[0])
            own = PromptMeans(weights, problem.targets.members, 1, 0.95)
            spans = [
                np.array(own.percentiles(found)) / shares[0]
                for found in (draws.multipliers, draws.predicted_improvement * shares[0])
            ]
            right = truths["K"].multiplier(), truths["K"].improvement(plug_in.multipliers / shares)[0]
            for name, (low, high), value in zip(("λ", "improvement"), spans, right, strict=True):
                note(f"interval of the {name}", low[0] <= value <= high[0])
    return {
        "case": case,
        "prompts": count,
        "responses": responses,
        "seconds": round(time.monotonic() - began, 1),
        "held": {name: [sum(values), len(values)] for name, values in held.items()},
    }


def report(rows: list[dict]) -> str:
    """Return the page of all rows, the latest of each setting."""
    latest = {(row["case"], row["prompts"], row["responses"]): row for row in rows}
    lines = [
        "# Coverage",
        "",
        "`python benchmarks/coverage.py`: for how many of the drawn tables a claim at 95 % held (1.4 % is",
        "two standard errors of 1,000 tables). Claims are judged on other prompts with K responses each, and",
        "where it says so in the limit.",
        "",
        "| constraint | prompts | K | claim | tables | held, % |",
        "|---|---|---|---|---|---|",
    ]
    for (case, prompts, responses), row in sorted(latest.items()):
        for name, (good, of) in row["held"].items():
            lines.append(f"| {case} | {prompts} | {responses} | {name} | {of} | {100 * good / of:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--resampled", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--responses", type=int, nargs="+", default=(RESPONSES, MANY))
    given, path = parser.parse_args(), RESULTS / "coverage.jsonl"
    for count in given.sizes:
        for responses in given.responses:
            for case in given.cases:
                row = measure(case, count, responses, given.tables, given.resampled)
                print(json.dumps(row, ensure_ascii=False), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (RESULTS / "coverage.md").write_text(report(rows))


if __name__ == "__main__":
    main()
