"""Mistakes in a score table or a flag of the dual command are one line that says how to fix them."""

import numpy as np
import pyarrow as pa
import pytest

from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import read_scores
from cann_jax.dual import main
from cann_jax.files.errors import InputError
from tests.analysis.example_files import TABLE, save


def replaced(name: str, values) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, pa.array(values))


def with_value(name: str, row: int, value) -> pa.Table:
    values = TABLE[name].to_pylist()
    values[row] = value
    return replaced(name, [str(v) for v in values] if isinstance(value, str) else values)


ASK = ["--margin", "safe=1"]
MISTAKES = {
    "no such file": (None, ASK, "no such file"),
    "score misnamed": (TABLE, ["--margin", "saef=1"], "no column saef; did you mean safe"),
    "reward misnamed": (
        TABLE.rename_columns(["prompt", "response", "group", "rewards", "safe", "polite"]),
        ASK,
        r"no column reward; did you mean rewards\?; --reward COLUMN names another",
    ),
    "no reward": (
        TABLE.drop_columns(["reward"]),
        ASK,
        "no column reward; the columns are prompt, response, group, safe, polite; --reward COLUMN names",
    ),
    "cost misnamed": (TABLE, [*ASK, "--cost", "saef"], r"--cost saef: there is no .*; did you mean safe\?"),
    "text among numbers": (
        with_value("safe", 6, "good"),
        ASK,
        "row 7 holds 'good' in column safe, not a number",
    ),
    "not a number": (
        with_value("safe", 9, float("nan")),
        ASK,
        "t.parquet: row 10 has no number in column safe; fill it in, or .* --drop_missing",
    ),
    "infinite": (with_value("reward", 0, float("inf")), ASK, "row 1 holds inf in column reward"),
    "missing": (
        with_value("polite", 0, None),
        ["--margin", "polite=1"],
        "row 1 has no number in column polite",
    ),
    "duplicates": (
        pa.concat_tables([TABLE, TABLE.slice(3, 1)]),
        ASK,
        "row 193 has a response that an earlier row of its prompt has",
    ),
    "below float32": (
        replaced("safe", 1e-42 * TABLE["safe"].to_numpy()),
        ["--margin", "safe=3e-43"],
        "float32 rounds safe by up to .*; subtract a constant from it or multiply it",
    ),
    "no rows": (TABLE.slice(0, 0), ASK, "no rows"),
    "beta": (TABLE, [*ASK, "--beta", "0"], "--beta is 0.0; it must be a finite number above 0"),
    "more margins": (
        TABLE,
        ["--margin", "1", "--margin", "1", "--margin", "1"],
        "3 values without a name, more",
    ),
    "fewer margins": (TABLE, ["--margin", "1"], "1 value without a name, fewer"),
    "nothing asked": (TABLE, [], "no constraint is given"),
    "margin of text": (TABLE, ["--margin", "safe=much"], "'much' is not a number"),
    "group": (TABLE, ["--margin", "safe@invite=1"], "no group invite; did you mean inviting"),
    "flag without effect": (
        TABLE,
        [*ASK, "--clip", "polite=0,1"],
        "--clip polite: there is no constraint on it",
    ),
    "abbreviated flag": (TABLE, [*ASK, "--bet", "1"], "--bet is not an option; did you mean --beta"),
    "apart": (
        TABLE.take(pa.array(np.random.default_rng(0).permutation(TABLE.num_rows))),
        [*ASK, "--stream"],
        "rows of a prompt are not adjacent",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_that_says_how_to_fix_it(tmp_path, name):
    table, flags, match = MISTAKES[name]
    path = tmp_path / "t.parquet"
    if table is not None:
        save(path, table)
    with pytest.raises(InputError, match=match) as caught:
        main(["--scores", str(path), *flags])
    assert "\n" not in str(caught.value)


def test_broken_files(tmp_path):
    for name, content, match in [
        ("empty.csv", "", "the file is empty"),
        ("broken.parquet", "PAR0", "not a readable parquet"),
        ("broken.jsonl", '{"prompt": 1}\n{"prompt"\n', "line 2 is not JSON"),
        ("scores.txt", "1", "cannot tell the format"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=match):
            read_scores(str(tmp_path / name), DualFlags())
