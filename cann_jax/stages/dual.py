"""λ* from the scores, with everything that is known of it before any training."""

import numpy as np

from cann_jax.analysis.analyse import analyse
from cann_jax.analysis.console import infeasible_message, print_analysis, warnings
from cann_jax.analysis.result_files import write_results
from cann_jax.core.feasibility import Feasible
from cann_jax.files.errors import InfeasibleError
from cann_jax.run.outputs import read_problem
from cann_jax.run.run import Run
from cann_jax.runtime.distributed import is_first
from cann_jax.runtime.mesh import alone


def run(run: Run) -> None:
    """Write ``dual.json``, ``curve.parquet`` and ``dual.png``, and print the table.

    Raises:
        InfeasibleError: The margins cannot be reached on the sample; raised when the files that show
            what can be reached are written.
    """
    if is_first():
        with alone():
            _solve(run)


def _solve(run: Run) -> None:
    config, problem = run.config, read_problem(run)
    found = analyse(
        problem, config.dual.beta, config.evaluate.confidence, seed=config.seed, method=config.dual.method
    )
    said = warnings(found)
    print_analysis(found, said)
    write_results(run.folder / "dual", found, said)
    if found.feasible == Feasible.NO or not np.all(np.isfinite(found.solution.multipliers)):
        raise InfeasibleError(infeasible_message(found))
