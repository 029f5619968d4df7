"""A table larger than memory, solved in passes over its chunks, of which only sums are kept."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arguments import check_beta
from cann_jax.core.arrays import Array
from cann_jax.core.objective import Objective
from cann_jax.core.problem import Targets
from cann_jax.core.scores import Scores
from cann_jax.core.solver.solution import TOLERANCE, DualSolution
from cann_jax.core.solver.solve import solve_objective
from cann_jax.core.survey import Survey, constants_of, refine_spreads, survey
from cann_jax.core.table import Spreads, standardise

Chunks = Callable[[], Iterable[Scores]]


@dataclasses.dataclass(frozen=True)
class StreamedSolution:
    """A solution, what was minimised, margins and ``largest_margin`` ``(m,)``, and the number of passes."""

    solution: DualSolution
    objective: Objective
    margins: np.ndarray
    largest_margin: np.ndarray
    passes: int


def solve_stream(chunks: Chunks, targets: Targets, beta: float) -> StreamedSolution:
    """Solve the dual by Newton's method in passes over chunks of whole prompts, in the memory of one chunk.

    Sums over chunks are kept in float64.

    Args:
        chunks: Called once a pass; yields ``Scores`` with a mask and no baseline, each with the same
            responses axis. Weights have one scale over all chunks. Equal shapes spare compilations; prompts
            without a response pad.
        targets: Without members: scores of groups are divided by the groups' shares.
        beta: β > 0.
    """
    check_beta(beta)
    stream = _Stream(chunks)
    # Of about the right size, whatever the weights of the first chunk, which may all be 0.
    first = standardise(dataclasses.replace(next(iter(chunks())), prompt_weights=None)).spreads
    seen: Survey = stream.total(first, 1.0, survey)
    margins = np.asarray(targets.margins(np.ones(1, np.float32), seen.mean / seen.weight))
    spreads = refine_spreads(first, seen)
    constants = constants_of(seen, spreads, margins, np.asarray(beta, np.float32))
    objective = Objective(constants, partial(stream.total, spreads, 1 / seen.weight), _loop_on_host)
    solution = solve_objective(objective, jnp.zeros(len(margins), jnp.float32), "newton", TOLERANCE)
    return StreamedSolution(
        solution=jax.device_get(solution),
        objective=objective,
        margins=margins,
        largest_margin=np.asarray(seen.best / seen.weight * first.constraints),
        passes=stream.passes,
    )


class _Stream:
    """Chunks of a table."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks, self.passes = chunks, 0

    def total(
        self, spreads: Spreads, weight: float | Array, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Return the sum over the chunks, added in float64, as float32."""
        self.passes += 1
        kept = None
        for chunk in self.chunks():
            part = _of_chunk(function, chunk, spreads, weight, *arguments)
            part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
            kept = part if kept is None else jax.tree.map(np.add, kept, part)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), kept)


@partial(jax.jit, static_argnums=0)
def _of_chunk(
    function: Callable[..., Any], chunk: Scores, spreads: Spreads, weight: float | Array, *arguments: Any
) -> Any:
    assert chunk.mask is not None, "a chunk has a mask"
    own = 1 if chunk.prompt_weights is None else chunk.prompt_weights
    weights = jnp.where(jnp.any(chunk.mask, axis=-1), weight * own, 0)
    return function(standardise(chunk, weights, spreads), *arguments)


def _loop_on_host(unfinished: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
    while unfinished(state):
        state = step(state)
    return state
