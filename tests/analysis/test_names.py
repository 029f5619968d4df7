"""Names of scores that a terminal's markup, a picture's formulas or a page would read as their own."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax import dual

NAMES = (
    "safe[v2]",
    "[red]x[/red]",
    "a[/b]",
    ":smile:",
    r"$\frac$",
    "a$b$c",
    "a|b",
    "_x",
    "x/y",
    "x=y",
    "日本",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_and_written_as_they_are(tmp_path, capsys, name):
    rng = np.random.default_rng(0)
    keys = {"prompt": np.repeat(np.arange(20), 8), "response": np.tile(np.arange(8), 20)}
    pq.write_table(
        pa.table({**keys, "reward": rng.normal(size=160), name: rng.normal(size=160)}), tmp_path / "t.parquet"
    )
    dual.main(
        ["--scores", str(tmp_path / "t.parquet"), "--margin", f"{name}=0.1", "--out", str(tmp_path / "o")]
    )
    assert f"│ {name} " in capsys.readouterr().out
    assert f"multiplier/{name}" in pq.read_schema(tmp_path / "o/curve.parquet").names
    assert (tmp_path / "o/dual.png").stat().st_size > 1000
