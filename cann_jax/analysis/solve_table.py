"""Solve the dual problem of a score table held in memory: print the analysis and write its files."""

import threading

from cann_jax.analysis.analyse import Analysis, analyse
from cann_jax.analysis.console import infeasible_message, print_analysis, warnings
from cann_jax.analysis.constraints import clip_bounds, constraints_asked, group_members, names_asked
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import Columns, prompt_weights, read_scores
from cann_jax.core.feasibility import Feasible
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Problem
from cann_jax.core.scores import check_scores
from cann_jax.files.errors import InfeasibleError


def solve_table(path: str, flags: DualFlags) -> None:
    """Solve the problem that the flags state on one table, print the analysis, and write it to ``--out``.

    Raises:
        InputError: Bad flags or a bad table.
        InfeasibleError: The margins are out of reach; raised after everything is printed and written.
    """
    if flags.out:
        # A second of imports, most of it while XLA compiles.
        threading.Thread(target=_import_matplotlib, daemon=True).start()
    problem = read_problem(path, flags)
    found = analyse(problem, flags.beta, flags.confidence, flags.resamples, flags.seed)
    notes = warnings(found, check_scores(problem.scores, problem.names))
    print_analysis(found, notes)
    if flags.out:
        _write(flags.out, found, notes)
    if found.feasible == Feasible.NO:
        raise InfeasibleError(infeasible_message(found))


def _write(folder: str, found: Analysis, notes: list[str]) -> None:
    from cann_jax.analysis.result_files import write_results

    written = write_results(folder, found, notes)
    print(f"written: {folder}/{', '.join(written)}")


def _import_matplotlib() -> None:
    import cann_jax.analysis.result_files  # noqa: F401


def read_problem(path: str, flags: DualFlags) -> Problem:
    """Read the table and return the problem that the flags state on it."""
    columns = Columns(flags.prompt, flags.response, flags.reward, flags.prompt_weights)
    table = read_scores(path, columns, names_asked(flags))
    available = [name for name in table.scores if name != columns.reward]
    return prepare(
        table.scores[columns.reward],
        table.scores,
        constraints_asked(flags, available),
        groups=group_members(flags.groups, table.prompt_columns),
        mask=None if table.mask.all() else table.mask,
        prompt_weights=prompt_weights(table, columns, path),
        reward_clip=clip_bounds(flags).get(columns.reward),
    )
