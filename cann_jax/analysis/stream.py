"""Solve the dual problem of a Parquet table larger than memory, its rows sorted by prompt, in passes."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from cann_jax.analysis.as_json import solution_json
from cann_jax.analysis.console import count_notes, out_of_reach, unconverged_message
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.stream_reader import open_stream
from cann_jax.analysis.table_notes import table_notes
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
    constraints = reader.constraints
    found = solve_stream(reader.chunks, make_targets(constraints, np.float32), flags.beta)
    feasible = Feasible(int(found.solution.feasible))
    verdict = feasible.name.lower()
    _print_solution(found, constraints, verdict, reader.seen.counts.prompts)
    seen = reader.seen
    for note in [*count_notes(seen.counts), *table_notes(flags.cost, seen.dropped, seen.repeated)]:
        print(f"! {note}")
    labels = [constraint.label for constraint in constraints]
    if flags.out:
        content = solution_json(found.solution) | {
            "feasible": verdict,
            "constraints": labels,
            "beta": flags.beta,
            "margins": found.margins,
            "largest_margin": found.largest_margin,
            "predicted_improvement": found.solution.predicted_improvement,
        }
        write_json(epath.Path(flags.out) / "dual.json", content)
    if feasible == Feasible.NO:
        raise InfeasibleError(out_of_reach(labels, found.margins, found.largest_margin, None))
    if unsolved := unconverged_message(feasible, found.solution):
        raise NotConvergedError(unsolved)


def _print_solution(
    found: StreamedSolution, constraints: Sequence[Constraint], verdict: str, prompts: int
) -> None:
    for j, constraint in enumerate(constraints):
        print(
            f"{constraint.label}: margin {found.margins[j]:.4g}, largest {found.largest_margin[j]:.4g}, "
            f"lambda* {found.solution.multipliers[j]:.5g}, "
            f"improvement {found.solution.predicted_improvement[j]:.4g}"
        )
    print(
        f"feasible: {verdict}   converged: {str(bool(found.solution.converged)).lower()}   "
        f"KL {found.solution.kl:.3g} nats   {prompts} prompts in {found.passes} passes"
    )
