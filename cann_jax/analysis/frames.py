"""Scores from tables of pandas or Arrow, by the reader of the dual command, and solutions as such tables."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.analysis.console import table_notes
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import UNFIT
from cann_jax.analysis.known import known
from cann_jax.analysis.solve_table import problem_of
from cann_jax.analysis.tables import Source, open_arrow, open_scores
from cann_jax.core.certificate import Certificate
from cann_jax.core.feasibility import Feasible
from cann_jax.core.problem import Constraint
from cann_jax.core.scores import Scores, constraint_names
from cann_jax.core.solver.solution import DualSolution
from cann_jax.files.errors import InputError

FRAME = "table"  # what messages call one without a file
FLAG = re.compile(r"(?<![^\s(])--(reward|cost|groups|prompt|response|prompt_weights|drop_missing)\b")
# Columns of a solution's frame: what each constraint has, and what is the whole solution's.
OF_EACH = ("multipliers", "predicted_improvement", "slack", "predicted_constraints", "baseline")
OF_ALL = ("predicted_reward", "kl", "value", "effective_sample_size", "kkt_residual", "converged")
OF_CERTIFICATE = ("mean", "lower", "upper", "prompts", "prompts_needed")


def scores_of(table: Any, reward: str, constraints: Iterable[str] | None, **columns: Any) -> Scores:
    """Return the scores in a table; arguments as ``Scores.from_table``."""
    try:
        return _scores_of(table, reward, constraints, columns)
    except InputError as error:
        raise InputError(_in_arguments(str(error))) from None


def _scores_of(table: Any, reward: str, constraints: Iterable[str] | None, columns: dict[str, Any]) -> Scores:
    lists = {"constraints": constraints, "cost": columns["cost"], "groups": columns["groups"]}
    for name, given in lists.items():
        if isinstance(given, str):
            raise InputError(f"{name}: {given!r} is one text; give a list, [{given!r}]")
    columns |= {name: tuple(columns[name]) for name in ("cost", "groups")}
    flags = DualFlags(reward=reward, **columns)
    asked = [] if constraints is None else list(constraints)
    source = _source(table, flags, list(dict.fromkeys(name.partition("@")[0] for name in asked)))
    for name in flags.cost:
        if name not in source.names:
            raise InputError(f"cost: {name} is neither the reward nor a constraint; leave it out")
    wanted = asked or source.names[1:]
    goals = [Constraint(score, margin=0.0, group=group) for score, group in map(_split, wanted)]
    problem, read = problem_of(source, goals, flags)
    for note in table_notes((), read.dropped, read.repeated, read.counter):
        warnings.warn(_in_arguments(note), stacklevel=4)
    return dataclasses.replace(problem.scores, names=problem.names)


def _in_arguments(message: str) -> str:
    """Return a message of the command with its flags as the arguments that do the same."""
    return FLAG.sub(lambda found: found[1] + "=True" * (found[1] == "drop_missing"), message)


def solution_frame(solution: DualSolution, names: Sequence[str] | None) -> Any:
    """Return the frame of a solution; see ``DualSolution.to_frame``."""
    import pandas as pd

    multipliers = np.asarray(solution.multipliers)
    points, m = int(np.prod(multipliers.shape[:-1])), multipliers.shape[-1]
    labels = constraint_names(m, solution.names if names is None else names)
    solution = known(solution)
    columns = {name: np.asarray(getattr(solution, name)) for name in OF_EACH}
    whole = {name: np.asarray(getattr(solution, name)) for name in OF_ALL}
    whole["feasible"] = np.vectorize(lambda code: Feasible(int(code)).word)(np.asarray(solution.feasible))
    columns |= {name: np.repeat(values[..., None], m, axis=-1) for name, values in whole.items()}
    index = pd.MultiIndex.from_product([range(points), labels], names=["point", "constraint"])
    frame = pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()}, index)
    return frame if multipliers.ndim > 1 else frame.droplevel("point")


def certificate_frame(certificate: Certificate, names: Sequence[str] | None) -> Any:
    """Return the frame of a certificate; see ``Certificate.to_frame``."""
    import pandas as pd

    labels = constraint_names(len(certificate.verdicts), names)
    columns = {name: getattr(certificate, name) for name in OF_CERTIFICATE}
    return pd.DataFrame(
        {"verdict": list(map(str, certificate.verdicts)), **columns}, pd.Index(labels, name="constraint")
    ).astype({"prompts_needed": "Int64"})  # none where a number would say nothing


def _source(table: Any, flags: DualFlags, wanted: list[str]) -> Source:
    if isinstance(table, str | os.PathLike):
        return open_scores(os.fspath(table), flags, wanted)
    return open_arrow(FRAME, _arrow(table), flags, wanted)


def _arrow(table: Any) -> pa.Table:
    """Return a table as one of Arrow, with the index of a DataFrame where its levels have names."""
    try:
        if isinstance(table, pa.Table):
            return table
        if hasattr(table, "columns") and hasattr(table, "index"):
            return pa.Table.from_pandas(table, preserve_index=None not in table.index.names)
        if hasattr(table, "__arrow_c_stream__"):  # polars and others
            return pa.table(table)
    except (*UNFIT, ValueError, TypeError) as error:
        reason = " ".join(map(str, error.args))
        raise InputError(
            f"{FRAME}: {' '.join(reason.split())}; give each column one type and a name"
        ) from None
    raise InputError(f"{FRAME}: a {type(table).__name__}; give a file's name or a pandas DataFrame")


def _split(name: str) -> tuple[str, str | None]:
    score, sign, group = name.partition("@")
    return score, group if sign else None
