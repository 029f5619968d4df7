"""A table of six prompts and four responses, its right λ*, and how a wrong table is refused."""

import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.solve_table import table_problem
from cann_jax.core.solver.solve import solve_dual
from cann_jax.dual import main
from cann_jax.files.errors import InputError
from tests.analysis.independent import Dual, Goal

N, K = 6, 4
PROMPT, DRAW = np.arange(N)[:, None], np.arange(K)[None]
REWARD, SAFE = np.sin(2 + 2 * PROMPT + 3 * DRAW), np.cos(0.3 + 1.7 * PROMPT - 1.3 * DRAW)
NAMES = [f"p{n}" for n in range(N)]
EVERYONE = np.ones(N)
ASK = ["--margin", "safe=0.2", "--beta", "0.5"]


def long(**more) -> dict:
    """Columns of a row for each response."""
    columns = {
        "prompt": np.repeat(NAMES, K).tolist(),
        "response": [f"answer {n}" for n in range(N * K)],
        "reward": REWARD.ravel().tolist(),
        "safe": SAFE.ravel().tolist(),
    }
    return columns | more


def changed(name: str, row: int, value) -> dict:
    columns = long()
    columns[name][row] = value
    return columns


def save(path, columns) -> str:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    else:
        pq.write_table(pa.table(columns), path, row_group_size=5)
    return str(path)


def multiplier(path: str, **flags) -> float:
    problem, _ = table_problem(path, DualFlags(**{"margin": ("safe=0.2",), "beta": 0.5} | flags))
    return float(solve_dual(problem.scores, problem.margins, 0.5, "newton").multipliers[0])


def expected(reward=REWARD, safe=SAFE, weights=EVERYONE, kind="margin", value=0.2, members=EVERYONE) -> float:
    found = Dual(list(reward), weights, [Goal(list(safe), kind, value, members)], 0.5).minimum()
    return float(found[0])


def refused(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        main(["--scores", *argv])
    line = str(caught.value)
    assert caught.value.exit_status == 2 and "\n" not in line
    return line


def refused_both_ways(path: str, *flags: str) -> str:
    line = refused(path, *flags)
    assert refused(path, *flags, "--stream") == uncounted(line)
    return line


def uncounted(line: str) -> str:
    """The line without how many there are of a kind, which a stream does not know."""
    return re.sub(", one of [^;]*", "", line)
