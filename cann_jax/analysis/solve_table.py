"""Solve the dual problem of a score table held in memory: print the analysis and write its files."""

import dataclasses
import importlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from cann_jax.analysis.analyse import analyse
from cann_jax.analysis.as_json import groups_json
from cann_jax.analysis.by_group import Group, by_group, reward_heading
from cann_jax.analysis.console import (
    infeasible_message,
    print_analysis,
    table_notes,
    unconverged_message,
    warnings,
)
from cann_jax.analysis.constraints import (
    clip_bounds,
    constraints_asked,
    group_members,
    group_names,
    groups_of,
    names_asked,
    threshold_notes,
)
from cann_jax.analysis.features import read_features
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.raw_table import RawTable
from cann_jax.analysis.reach import Features, shortfall_message
from cann_jax.analysis.tables import Source, open_scores
from cann_jax.core.feasibility import Feasible
from cann_jax.core.prepare import prepare
from cann_jax.core.problem import Constraint, Problem
from cann_jax.core.scores import check_total_weight
from cann_jax.files.errors import InfeasibleError, NotConvergedError


def solve_table(path: str, flags: DualFlags) -> None:
    """Solve the problem that the flags state on one table, print the analysis, and write it to ``--out``.

    Raises:
        InputError: Bad flags or a bad table.
        InfeasibleError: The margins are out of reach on the sample or above what its features tell; raised
            after everything is printed and written, as is the next.
        NotConvergedError: λ* was not found to tolerance.
    """
    if flags.out:
        # A second of imports, most of it while XLA compiles.
        late = "cann_jax.analysis.result_files"
        threading.Thread(target=importlib.import_module, args=[late], daemon=True).start()
    problem, table = table_problem(path, flags)
    features = None
    if flags.features is not None:
        features = Features(read_features(path, flags.features, table), flags.folds, flags.seed, "--folds")
    if not table.groups:  # from here on raw scores are asked for constraints of groups alone
        table = dataclasses.replace(table, scores={})
    found = analyse(problem, flags.beta, flags.confidence, flags.resamples, flags.seed, features=features)
    notes = [
        *warnings(found),
        *threshold_notes(flags, problem.constraints),
        *table_notes(flags.cost, table.dropped, table.repeated, table.counter),
    ]
    groups: list[Group] = []
    if found.solution.converged:  # nothing is known of a policy that is none
        best = np.asarray(found.solution.multipliers)
        raw, columns = table.scores, table.groups
        groups = by_group(problem, raw, columns, best, flags.beta, flags.confidence, flags.reward)
    signed = {reward_heading(problem.constraints, flags.reward)} if flags.reward in flags.cost else set()
    print_analysis(found, notes, groups, costs={*flags.cost, *signed})
    if flags.out:
        from cann_jax.analysis.result_files import write_results

        more: dict[str, Any] = {"costs": flags.cost, "reward": flags.reward}
        more |= {"groups": groups_json(groups)} if groups else {}
        print(f"written: {flags.out}/{', '.join(write_results(flags.out, found, notes, more))}")
    if found.feasible == Feasible.NO:
        raise InfeasibleError(infeasible_message(found))
    if unsolved := unconverged_message(found.feasible, found.solution):
        raise NotConvergedError(unsolved)
    if found.reach is not None and not found.reach.reachable:
        margins, baseline = np.asarray(problem.margins), found.solution.baseline
        message = shortfall_message(problem.constraints, margins, baseline, found.reach.attainable)
        raise InfeasibleError(message)


def table_problem(path: str, flags: DualFlags) -> tuple[Problem, RawTable]:
    """Return the problem that the flags state on a table, and the table.

    Raises:
        InputError: Bad flags or a bad table.
    """
    source = open_scores(path, flags, names_asked(flags))
    constraints = constraints_asked(flags, source.names[1:])  # before rows are read, which may take long
    return problem_of(source, constraints, flags)


def problem_of(
    source: Source, constraints: Sequence[Constraint], flags: DualFlags
) -> tuple[Problem, RawTable]:
    """Read an opened table, and return the problem that constraints make on it, and the table.

    Raises:
        InputError: A bad table, or a constraint about a group that it does not have.
    """
    table = source.read()
    names = group_names({column: groups_of(values) for column, values in table.groups.items()})
    weights = table.weights
    if weights is not None:
        check_total_weight(float(weights.sum()))
        weights = (weights / weights.mean()).astype(np.float32)  # float32 may not hold them as they are
    problem = prepare(
        table.scores[flags.reward],
        table.scores,
        constraints,
        groups=group_members(table.groups, names),
        mask=None if table.mask.all() else table.mask,
        prompt_weights=weights,
        reward_clip=clip_bounds(flags).get(flags.reward),
    )
    return problem, table
