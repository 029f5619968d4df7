"""The same solve for a table larger than memory: it passes by in chunks, and only sums are kept."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.dual import Evaluation, Standardised, evaluate
from cann_jax.core.prepare import Targets
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import (
    Description,
    Survey,
    Units,
    describe,
    described,
    pose_part,
    pose_whole,
    survey,
    with_drift,
)
from cann_jax.core.solver.newton import newton_by_passes
from cann_jax.core.solver.solve import SOLVED, TOLERANCE, DualSolution, certified
from cann_jax.core.table import Table, centre, standardise, tabulate

Chunks = Callable[[], Iterable[Scores]]


@dataclasses.dataclass(frozen=True)
class StreamedSolution:
    """A solution, its margins and ``largest_margin`` ``(m,)``, and how many prompts and passes it took."""

    solution: DualSolution
    margins: np.ndarray
    largest_margin: np.ndarray
    prompts: int
    passes: int


def solve_stream(chunks: Chunks, targets: Targets, beta: float) -> StreamedSolution:
    """``solve_dual`` by Newton's method on whole prompts that pass by; memory is that of one chunk.

    Prompts weigh the same. Sums over chunks are kept in float64.

    Args:
        chunks: called once a pass; yields ``Scores`` with a mask, no weights and no baseline, each with
            the same responses axis. Equal shapes spare compilations; prompts without a response pad.
        targets: what to ask; no groups.
        beta: β > 0.
    """
    units = _units(next(iter(chunks())))
    seen, passes = _sum_over(_survey_chunk(chunk, units) for chunk in chunks()), 1
    margins = np.asarray(targets.margins(np.ones(1, np.float32), seen.mean / seen.weight))
    whole = jax.jit(pose_whole)(seen, units, margins, np.float32(beta))

    def total(of_chunk, tilt):
        nonlocal passes
        passes += 1
        return _sum_over(of_chunk(chunk, whole, seen.weight, tilt) for chunk in chunks())

    def evaluate_table(tilt) -> Evaluation:
        return with_drift(whole, total(_evaluate_chunk, tilt), tilt)

    start = jnp.zeros(len(margins), jnp.float32)
    tilt, evaluations = newton_by_passes(whole, start, SOLVED * TOLERANCE, evaluate_table)
    found = described(whole, total(_describe_chunk, tilt), tilt)
    solution = jax.device_get(certified(whole, tilt, found, evaluations, TOLERANCE))
    return StreamedSolution(
        solution=solution,
        margins=margins,
        largest_margin=np.asarray((seen.best - seen.mean) / seen.weight),
        prompts=int(seen.weight),
        passes=passes,
    )


def _sum_over(parts: Iterable):
    """Sum of pytrees in float64, returned in float32."""
    kept = None
    for part in parts:
        part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
        kept = part if kept is None else jax.tree.map(np.add, kept, part)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), kept)


@jax.jit
def _units(chunk: Scores) -> Units:
    table = standardise(chunk)
    return table.spread, table.reward_spread


@jax.jit
def _survey_chunk(chunk: Scores, units: Units) -> Survey:
    return survey(_table(chunk, units, jnp.ones(1)), chunk.mask, jnp.moveaxis(chunk.constraints, -1, 0))


def _table(chunk: Scores, units: Units, weight: jax.Array) -> Table:
    """A chunk in given units, every prompt with a response weighing the same."""
    constraints = jnp.moveaxis(chunk.constraints, -1, 0)
    centres = centre(chunk.reward, chunk.mask), centre(constraints, chunk.mask)
    weights = jnp.where(jnp.any(chunk.mask, axis=-1), weight, 0)
    return tabulate(chunk.reward, constraints, chunk.mask, weights, centres, spreads=units)


def _part(chunk: Scores, whole: Standardised, prompts: jax.Array) -> Standardised:
    units = whole.table.spread, whole.table.reward_spread
    return pose_part(whole, _table(chunk, units, 1 / prompts))


@jax.jit
def _evaluate_chunk(chunk: Scores, whole: Standardised, prompts, tilt) -> Evaluation:
    return evaluate(_part(chunk, whole, prompts), tilt)


@jax.jit
def _describe_chunk(chunk: Scores, whole: Standardised, prompts, tilt) -> Description:
    return describe(_part(chunk, whole, prompts), tilt)
