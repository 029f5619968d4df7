"""Many solves of one table in one compiled program: margins, β, prompt weights and parts of the responses.

Curves, bootstrap, cross-fitting and the correction over K are all lanes, so a process compiles one solver.
"""

import dataclasses
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import check_beta
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit
from cann_jax.core.feasibility import Feasible
from cann_jax.core.solver.blocks import many_blocks, objective_of
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.solver.solve import solve_objective
from cann_jax.core.table import Table, reweigh

CHUNK = 64  # lanes a call: calls of one size share one compilation, and lanes that pad a call are skipped
FEW = 8  # the same where prompts are many: each lane has weights of its own

Point = tuple[Array, Array]  # a lane's margins and β ``(m + 1,)``, and its multipliers ``(m,)``
Path = tuple[Point, Point]  # the last two points


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """Settings of L solves.

    Attributes:
        margins: ``(L, m)``.
        betas: ``(L,)``.
        weights: ``(L, prompts)``, any scale.
        parts: ``(L, 2)`` int (step, first): use every step-th response of a prompt, from the first-th on;
            steps are powers of two.
    """

    margins: np.ndarray
    betas: np.ndarray
    weights: np.ndarray
    parts: np.ndarray


def lanes(
    table: Table,
    margins: ArrayLike,
    betas: ArrayLike,
    weights: np.ndarray | None = None,
    parts: np.ndarray | None = None,
) -> Lanes:
    """Broadcast settings, with or without an axis of lanes, to the fields of ``Lanes``.

    Weights default to the table's, parts to all responses.
    """
    dtype = table.reward.dtype
    check_beta(betas, dtype)
    margins, betas = np.asarray(margins, dtype), np.asarray(betas, dtype)
    given = [margins.shape[0] if margins.ndim == 2 else 1, betas.shape[0] if betas.ndim else 1]
    count = max(given + [len(setting) for setting in (weights, parts) if setting is not None])
    weights = np.asarray(table.weights if weights is None else weights, dtype)
    return Lanes(
        margins=np.broadcast_to(margins, (count, table.features.shape[0])),
        betas=np.broadcast_to(betas, (count,)),
        weights=np.broadcast_to(weights, (count, table.weights.shape[0])),
        parts=np.broadcast_to(np.array([1, 0]) if parts is None else parts, (count, 2)),
    )


def solve_lanes(table: Table, settings: Lanes, initial: ArrayLike | None = None) -> DualSolution:
    """Solve every lane by Newton's method, each from its predecessor's answer.

    Where settings move along a line the next answer is predicted to first order, so that a fine curve costs
    two evaluations a point. E_ref[g] of a part is still the whole table's. Memory is that of one solve.
    Driven from the host; under ``jit``, map ``solve_dual`` instead.

    Returns:
        A ``DualSolution`` whose fields have a leading axis of lanes.
    """
    start = np.zeros_like(settings.margins[0]) if initial is None else np.asarray(initial)
    if not many_blocks(table.reward):
        return _solve_path(table, settings, start, _Way(blocks=False, parts=True))
    way = _Way(blocks=True, parts=bool(np.any(settings.parts[:, 0] > 1)))
    # XLA takes the blocks on one core, and lanes are independent but for where they start
    ends = np.linspace(0, len(settings.betas), min(len(settings.betas), os.cpu_count() or 1) + 1).astype(int)
    paths = [jax.tree.map(lambda x, own=own: x[slice(*own)], settings) for own in itertools.pairwise(ends)]
    with ThreadPoolExecutor(len(paths)) as pool:
        found = list(pool.map(lambda own: _solve_path(table, own, start, way), paths))
    return cast(DualSolution, jax.tree.map(lambda *parts: np.concatenate(parts), *found))


class _Way(NamedTuple):
    """How lanes are solved; nothing of it is traced.

    Attributes:
        blocks: Whether the table is read in blocks of prompts.
        parts: Whether a lane may use a part of the responses.
    """

    blocks: bool
    parts: bool


def _solve_path(table: Table, settings: Lanes, start: np.ndarray, way: _Way) -> DualSolution:
    """Return the solutions of lanes, the first of them from λ ``(m,)``."""
    count = len(settings.betas)
    size = FEW if way.blocks else CHUNK
    point = (np.append(settings.margins[0], settings.betas[0]), start.astype(settings.betas.dtype))
    path: Path = (point, point)
    found = []
    for begin in range(0, count, size):
        # lanes that pad the last call repeat one and are skipped
        rows = np.minimum(np.arange(begin, begin + size), count - 1)
        chunk = jax.tree.map(lambda setting, rows=rows: setting[rows], settings)
        path, solutions = _solve_chunk(table, chunk, np.arange(begin, begin + size) < count, path, way)
        # With arrays of a device for the host's of the first call, it compiled twice.
        path = jax.device_get(path)
        found.append(solutions)
    return cast(DualSolution, jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found))


def solve_lane(
    table: Table, margins: ArrayLike, beta: ArrayLike, initial: ArrayLike | None = None
) -> DualSolution:
    """Solve for margins ``(m,)`` and β as one lane, by the program that curves compile anyway."""
    found = solve_lanes(table, lanes(table, margins, beta), initial)
    return cast(DualSolution, jax.tree.map(lambda leaf: leaf[0], found))


def _some_responses(table: Table, part: Array) -> Table:
    """Return every step-th response of each prompt, from the first-th on."""
    step, first = part
    turn = jnp.cumsum(jnp.isfinite(table.reward), axis=-1) - 1
    return dataclasses.replace(
        table,
        reward=jnp.where((turn & (step - 1)) == first, table.reward, -jnp.inf),
        prompt_log_counts=table.prompt_log_counts - jnp.log(step.astype(table.reward.dtype)),
    )


@jit(static_argnames="way")
def _solve_chunk(
    table: Table, settings: Lanes, active: Array, path: Path, way: _Way
) -> tuple[Path, DualSolution]:
    def solve(setting: Lanes, path: Path) -> DualSolution:
        own = reweigh(table, setting.weights)
        part_of = partial(_some_responses, part=setting.parts) if way.parts else lambda table: table
        objective = objective_of(own, setting.margins, setting.betas, way.blocks, part_of)
        return solve_objective(objective, _predict(path, jnp.append(setting.margins, setting.betas)))

    def step(path: Path, lane: tuple[Lanes, Array]) -> tuple[Path, DualSolution]:
        setting, wanted = lane
        shape = jax.eval_shape(solve, setting, path)
        skipped = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        solution = jax.lax.cond(wanted, lambda: solve(setting, path), lambda: skipped)
        here = (jnp.append(setting.margins, setting.betas), solution.multipliers)
        # an infeasible point has nothing to predict from
        known = wanted & (solution.feasible != Feasible.NO)
        return jax.tree.map(lambda old, new: jnp.where(known, new, old), path, (path[1], here)), solution

    return jax.lax.scan(step, path, (settings, active))


def _predict(path: Path, setting: Array) -> Array:
    """Return λ ``(m,)`` on the line through the last two answers, as far along as the settings have moved."""
    (older, first), (newer, second) = path
    moved, ahead = newer - older, setting - newer
    length = jnp.dot(moved, moved)
    share = jnp.where(length > 0, jnp.dot(ahead, moved) / jnp.where(length > 0, length, 1), 0)
    return jnp.maximum(second + jnp.clip(share, -1, 2) * (second - first), 0)
