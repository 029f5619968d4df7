"""λ* from the scores, with everything that is known of it before any training."""

from collections.abc import Mapping, Sequence

import numpy as np

from cann_jax.analysis.analyse import analyse
from cann_jax.analysis.console import infeasible_message, print_analysis, warnings
from cann_jax.analysis.result_files import write_results
from cann_jax.config.run import RunConfig
from cann_jax.core import Constraint, Feasible, Problem, check_scores, prepare
from cann_jax.files.atomic import read_json, read_table
from cann_jax.files.errors import InfeasibleError
from cann_jax.run.run import Run, Stage, settings_of, stage
from cann_jax.runtime.distributed import is_first
from cann_jax.runtime.sharding import alone
from cann_jax.stages.score import REWARD


def run_dual(run: Run) -> None:
    """Leaves ``dual/dual.json``, ``curve.parquet`` and ``dual.png``, and prints the table.

    Raises:
        InfeasibleError: the margins cannot be reached on the sample; said before any training, and after the
            files are written, which show what can be reached.
    """
    config = run.config
    settings = {
        **settings_of(config, "dual", "constraints", "seed"),
        "confidence": config.evaluate.confidence,
    }
    with stage(run, "dual", settings, {"scores": run.manifest_of("score")}) as work:
        if work is None or not is_first():
            return
        with alone():
            _solve(run, work)


def _solve(run: Run, work: Stage) -> None:
    config = run.config
    problem = read_problem(run)
    found = analyse(
        problem, config.dual.beta, config.evaluate.confidence, seed=config.seed, method=config.dual.method
    )
    said = warnings(found, check_scores(problem.scores, problem.names))
    print_analysis(found, said)
    for name in write_results(work.folder, found, said):
        work.output(name)
    if found.feasible == Feasible.NO or not np.all(np.isfinite(found.solution.multipliers)):
        raise InfeasibleError(infeasible_message(found))


def read_multipliers(run: Run) -> np.ndarray:
    """λ* (m,), in the order of the configuration's constraints."""
    return np.array(read_dual(run)["multipliers"], np.float32)


def read_dual(run: Run) -> dict:
    return read_json(run.folder / "dual" / "dual.json")


def read_problem(run: Run) -> Problem:
    """The score stage's table as the dual's problem; the scores in it are those that r_λ is made of."""
    table = read_table(run.folder / "score" / "scores.parquet")
    count = int(max(table.column("response").to_numpy())) + 1
    names = (REWARD, *run.config.constraints)
    columns = {name: table.column(name).to_numpy().reshape(-1, count) for name in names}
    return problem_of(run.config, columns, table.column("group").to_pylist()[::count])


def problem_of(
    config: RunConfig, columns: Mapping[str, np.ndarray], prompt_groups: Sequence[str | None]
) -> Problem:
    """The configuration's constraints on scores ``(n, K)`` by name; ``prompt_groups`` names n groups."""
    groups = np.array(prompt_groups, object)
    members = {str(name): groups == name for name in set(prompt_groups) if name is not None}
    return prepare(columns[REWARD], columns, constraints_of(config), groups=members)


def constraints_of(config: RunConfig) -> list[Constraint]:
    return [
        Constraint(
            name=name,
            margin=constraint.margin,
            at_least=constraint.at_least,
            max_unsafe=constraint.max_unsafe,
            unsafe_below=constraint.unsafe_below,
            group=constraint.group,
            clip=constraint.clip,
        )
        for name, constraint in config.constraints.items()
    ]
