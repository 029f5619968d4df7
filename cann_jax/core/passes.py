"""The same solve for a table larger than memory: it passes by in chunks, and only sums are kept."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.dual import (
    Evaluation,
    PolicyStatistics,
    Standardised,
    Table,
    evaluate,
    natural_residual,
    policy_statistics,
    pose,
    ready,
)
from cann_jax.core.feasibility import reach_along, verdict
from cann_jax.core.newton import newton_by_passes
from cann_jax.core.prepare import Targets
from cann_jax.core.scores import Scores
from cann_jax.core.solve import TOLERANCE, DualSolution, certified

Chunks = Callable[[], Iterable[Scores]]


@dataclasses.dataclass(frozen=True)
class StreamedSolution:
    """A solution, its margins and ``largest_margin`` ``(m,)``, and how many prompts and passes it took."""

    solution: DualSolution
    margins: np.ndarray
    largest_margin: np.ndarray
    prompts: int
    passes: int


def solve_by_passes(chunks: Chunks, targets: Targets, beta: float) -> StreamedSolution:
    """``solve_dual`` by Newton's method on whole prompts that pass by; memory is that of one chunk.

    Prompts weigh the same. Sums over chunks are kept in float64.

    Args:
        chunks: called once a pass; yields ``Scores`` with a mask, no weights and no baseline, each with
            the same responses axis. Equal shapes spare compilations; prompts without a response pad.
        targets: what to ask; no groups.
        beta: β > 0.
    """
    summary, prompts, best = _survey(chunks)
    margins = np.asarray(targets.margins(np.ones(1, np.float32), np.asarray(summary.prompt_means[:, 0])))
    problem = pose(summary, margins, np.float32(beta))
    share = np.float32(1 / prompts)
    passes = 1

    def total(of_chunk, tilt):
        nonlocal passes
        passes += 1
        parts = (of_chunk(chunk, summary.spread, share, problem.beta, tilt) for chunk in chunks())
        return _sum_over(parts)

    def evaluate_table(tilt) -> Evaluation:
        seen = total(_evaluate_chunk, tilt)
        return Evaluation(seen.value + tilt @ problem.drift, seen.gradient + problem.drift, seen.hessian)

    start = jnp.zeros(len(margins), jnp.float32)
    tilt, evaluations = newton_by_passes(problem, start, 0.1 * TOLERANCE, evaluate_table)
    seen, reach = total(_describe_chunk, tilt)
    seen = seen._replace(value=seen.value + tilt @ problem.drift, gradient=seen.gradient + problem.drift)
    along = jnp.ones_like(tilt) if len(margins) == 1 else tilt / jnp.maximum(jnp.sum(tilt), 1e-30)
    residual = natural_residual(tilt, seen.gradient)
    code = verdict(problem, reach + along @ problem.drift, tilt, seen.value, residual, TOLERANCE)
    solution = jax.device_get(certified(problem, tilt, seen, code, evaluations, TOLERANCE))
    return StreamedSolution(solution, margins, best, prompts, passes)


def _sum_over(parts: Iterable):
    """Sum of pytrees in float64, returned in float32."""
    kept = None
    for part in parts:
        part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
        kept = part if kept is None else jax.tree.map(np.add, kept, part)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), kept)


def _survey(chunks: Chunks) -> tuple[Table, int, np.ndarray]:
    """One pass for what standardising needs: a table of one prompt that stands for all of them."""
    sums = None
    for chunk in chunks():
        part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _survey_chunk(chunk))
        sums = part if sums is None else {name: sums[name] + part[name] for name in sums}
    count = sums.pop("count")
    mean = {name: np.asarray(value / count, np.float32) for name, value in sums.items()}
    spread = np.sqrt(mean["variance"])
    spread = np.where(spread > 0, spread, 1).astype(np.float32)
    table = Table(
        reward=np.zeros((1, 1), np.float32),
        features=np.zeros((len(spread), 1, 1), np.float32),
        weights=np.ones(1, np.float32),
        spread=spread,
        reward_spread=np.sqrt(mean["reward_variance"]),
        baseline=None,
        prompt_means=mean["mean"][:, None],
        prompt_rewards=mean["reward"][None],
        prompt_lowest=mean["lowest"][None],
        prompt_log_counts=mean["log_count"][None],
    )
    return table, int(count), mean["best"] - mean["mean"]


@jax.jit
def _survey_chunk(chunk: Scores) -> dict:
    table = ready(chunk)
    there = jnp.any(chunk.mask, axis=-1).astype(table.reward.dtype)
    prompts = jnp.sum(there)
    constraints = jnp.where(chunk.mask, jnp.moveaxis(chunk.constraints, -1, 0), -jnp.inf)
    best = jnp.max(constraints, axis=-1)
    return {
        "count": prompts,
        "variance": _moving(table) * prompts,
        "reward_variance": jnp.where(table.reward_spread == 1, 0, table.reward_spread**2) * prompts,
        "mean": jnp.sum(table.prompt_means * there, axis=-1),
        "reward": jnp.sum(table.prompt_rewards * there),
        "lowest": jnp.sum(table.prompt_lowest * there),
        "log_count": jnp.sum(table.prompt_log_counts * there),
        "best": jnp.sum(jnp.where(there > 0, best, 0), axis=-1),
    }


def _moving(table: Table) -> jax.Array:
    """``(m,)``: mean squared deviation; 0, not 1, where a chunk's scores never vary."""
    varies = jnp.any(table.features != 0, axis=(1, 2))
    return jnp.where(varies, table.spread**2, 0)


def _problem(chunk: Scores, spread, share, beta) -> Standardised:
    """A chunk in the whole table's units, its prompts weighing what they weigh in the whole; no drift."""
    table = ready(chunk)
    there = jnp.any(chunk.mask, axis=-1)
    scale = table.spread / spread
    table = dataclasses.replace(
        table,
        features=table.features * scale[:, None, None],
        spread=spread,
        weights=jnp.where(there, share, 0),
    )
    return dataclasses.replace(pose(table, jnp.zeros_like(spread), beta), drift=jnp.zeros_like(spread))


@jax.jit
def _evaluate_chunk(chunk: Scores, spread, share, beta, tilt) -> Evaluation:
    return evaluate(_problem(chunk, spread, share, beta), tilt)


@jax.jit
def _describe_chunk(chunk: Scores, spread, share, beta, tilt) -> tuple[PolicyStatistics, jax.Array]:
    problem = _problem(chunk, spread, share, beta)
    return policy_statistics(problem, tilt), reach_along(problem, tilt)
