"""Solve the dual problem of a score table held in memory: print the analysis and write its files."""

import importlib
import threading

from cann_jax.analysis.analyse import analyse
from cann_jax.analysis.console import infeasible_message, print_analysis, warnings
from cann_jax.analysis.constraints import clip_bounds, constraints_asked, group_members, names_asked
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import prompt_weights, read_scores
from cann_jax.core.feasibility import Feasible
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Problem
from cann_jax.files.errors import InfeasibleError


def solve_table(path: str, flags: DualFlags) -> None:
    """Solve the problem that the flags state on one table, print the analysis, and write it to ``--out``.

    Raises:
        InputError: Bad flags or a bad table.
        InfeasibleError: The margins are out of reach; raised after everything is printed and written.
    """
    if flags.out:
        # A second of imports, most of it while XLA compiles.
        late = "cann_jax.analysis.result_files"
        threading.Thread(target=importlib.import_module, args=[late], daemon=True).start()
    problem = read_problem(path, flags)
    found = analyse(problem, flags.beta, flags.confidence, flags.resamples, flags.seed)
    notes = warnings(found)
    print_analysis(found, notes)
    if flags.out:
        from cann_jax.analysis.result_files import write_results

        print(f"written: {flags.out}/{', '.join(write_results(flags.out, found, notes))}")
    if found.feasible == Feasible.NO:
        raise InfeasibleError(infeasible_message(found))


def read_problem(path: str, flags: DualFlags) -> Problem:
    """Read the table and return the problem that the flags state on it."""
    table = read_scores(path, flags, names_asked(flags))
    available = [name for name in table.scores if name != flags.reward]
    return prepare(
        table.scores[flags.reward],
        table.scores,
        constraints_asked(flags, available),
        groups=group_members(flags.groups, table.prompt_columns),
        mask=None if table.mask.all() else table.mask,
        prompt_weights=prompt_weights(table, flags, path),
        reward_clip=clip_bounds(flags).get(flags.reward),
    )
