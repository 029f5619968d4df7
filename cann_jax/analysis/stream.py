"""Solve the dual problem of a Parquet table larger than memory, its rows sorted by prompt, in passes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from cann_jax.analysis.as_json import conflict_json, solution_json
from cann_jax.analysis.console import (
    count_notes,
    strain_notes,
    table_notes,
    unconverged_message,
)
from cann_jax.analysis.constraints import threshold_notes
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.known import known
from cann_jax.analysis.stream_reader import open_stream
from cann_jax.analysis.wording import improvement_cell, level_lines, margin_cells, out_of_reach
from cann_jax.core.exploration.conflict import Reachability, reachability_of, settle
from cann_jax.core.exploration.finite_sample import limit_of
from cann_jax.core.feasibility import Feasible
from cann_jax.core.problem import Constraint, make_targets
from cann_jax.core.solver.stream import StreamedSolution, solve_stream
from cann_jax.files.atomic import write_json
from cann_jax.files.errors import InfeasibleError, NotConvergedError


def solve_streamed_table(path: str, flags: DualFlags) -> None:
    """Solve a streamed table, print the solution, and write ``dual.json`` to ``--out``.

    Raises:
        InputError: Bad flags, a bad table, or one that is no Parquet file sorted by prompt.
        InfeasibleError: The margins are out of reach.
        NotConvergedError: λ* was not found to tolerance.
    """
    reader = open_stream(path, flags)
    labels = [constraint.label for constraint in reader.constraints]
    found = solve_stream(reader.chunks, make_targets(reader.constraints, np.float32), flags.beta)
    reach = _taken_apart(found)
    if reach is not None:
        found = dataclasses.replace(found, solution=settle(found.solution, reach))
    found = dataclasses.replace(found, solution=known(found.solution))
    feasible = Feasible(int(found.solution.feasible))
    _print_solution(found, reader.constraints, feasible, reader.seen.counts.prompts)
    seen = reader.seen
    limit = limit_of(found.solution.kl, float(found.objective.constants.log_count))
    notes = [
        *count_notes(seen.counts),
        *strain_notes(feasible, limit, found.solution.multipliers),
        *threshold_notes(flags, reader.constraints),
        *table_notes(flags.cost, seen.dropped, seen.repeated, reader.layout.counter),
    ]
    for note in notes:
        print(f"! {note}")
    if flags.out:
        content = solution_json(found.solution, labels, found.margins, found.largest_margin) | {
            "beta": flags.beta,
            "costs": flags.cost,
            "reward": flags.reward,
            "warnings": notes,
        }
        write_json(
            epath.Path(flags.out) / "dual.json", content | (conflict_json(labels, reach) if reach else {})
        )
    if feasible == Feasible.NO:
        solution = found.solution
        raise InfeasibleError(
            out_of_reach(reader.constraints, found.margins, found.largest_margin, solution.baseline, reach)
        )
    if unsolved := unconverged_message(feasible, found.solution):
        raise NotConvergedError(unsolved)


def _taken_apart(found: StreamedSolution) -> Reachability | None:
    """Return the verdict of cutting planes where the solver leaves something open; each takes a pass."""
    feasible, over = found.solution.feasible, np.any(found.margins >= found.largest_margin)
    settled = feasible == Feasible.YES or (feasible == Feasible.NO and over)
    return None if settled else reachability_of(found.objective)


def _print_solution(
    found: StreamedSolution, constraints: Sequence[Constraint], feasible: Feasible, prompts: int
) -> None:
    for j, constraint in enumerate(constraints):
        margin, largest = margin_cells(constraint, float(found.margins[j]), float(found.largest_margin[j]))
        improvement = improvement_cell(found.solution, j, margin)
        print(
            f"{constraint.label}: margin {margin}, largest {largest}, "
            f"lambda* {found.solution.multipliers[j]:.5g}, "
            f"improvement {'out of reach' if feasible == Feasible.NO else improvement}"
        )
    if feasible == Feasible.YES:
        for line in level_lines(constraints, found.solution):
            print(line)
    kl = "–" if feasible == Feasible.NO else f"{found.solution.kl:.3g} nats"
    print(
        f"feasible: {feasible.word}   converged: {str(bool(found.solution.converged)).lower()}   "
        f"KL {kl}   {prompts:,} prompts, solved in {found.passes} passes"
    )
