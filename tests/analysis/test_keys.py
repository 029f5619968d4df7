"""Which values of a prompt, response or group are one, in every kind of file and of column."""

import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cann_jax import Scores
from cann_jax.analysis import parts, tables
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.stream_reader import open_stream
from cann_jax.analysis.tables import read_scores
from cann_jax.dual import main
from tests.analysis.small_table import ASK, K, N, long, refused, refused_both_ways, save

BIG = 2**53  # from here on float64 holds every second integer only


def test_ids_that_look_like_one_number_are_apart(tmp_path):
    names = ["7", "007", "0x7", "+7", "7.0", "7e0"]
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        found = read_scores(save(path, long(prompt=np.repeat(names, K).tolist())), DualFlags())
        assert found.mask.shape == (N, K)


def test_chats_that_look_like_one_time_are_apart(tmp_path):
    times = ["2024-01-01", "2024-01-01 00:00:00", "2024-01-01T00:00:00"]
    rows = [
        {"prompt": [{"role": "user", "content": time}], "reward": k, "safe": -k}
        for time in times
        for k in range(2)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_scores(str(tmp_path / "t.jsonl"), DualFlags()).mask.shape == (3, 2)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv"])
def test_ids_that_look_like_one_time_are_apart(tmp_path, name):
    times = ["2020-01-01", "2020-01-01 00:00:00", "2020-01-01T00:00:00", "2020-01-01 00:00:00.0"]
    rows = [{"prompt": time, "reward": k, "safe": -k} for time in times for k in range(2)]
    lines = "\n".join(map(json.dumps, rows))
    header = "prompt,reward,safe\n" + "".join(f"{time},{k},{-k}\n" for time in times for k in range(2))
    (tmp_path / name).write_text({"t.jsonl": lines, "t.json": json.dumps(rows), "t.csv": header}[name])
    assert read_scores(str(tmp_path / name), DualFlags()).mask.shape == (4, 2)


def test_groups_that_look_like_one_number_are_apart(tmp_path):
    groups = np.repeat(["1", "01", "1.0", "1", "01", "1"], K).tolist()
    found = read_scores(save(tmp_path / "t.csv", long(group=groups)), DualFlags())
    assert found.groups["group"].tolist() == groups[::K]


def test_negative_ids_are_apart_in_a_stream(tmp_path, capsys):
    names = np.repeat([-1, -2, 1, 2, 3, 4], K).tolist()  # Python's hashes of -1 and -2 are equal
    main(["--scores", save(tmp_path / "t.parquet", long(prompt=names)), *ASK, "--stream"])
    assert "6 prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind", [pa.decimal128(19, 0), pa.decimal128(38, 2), pa.decimal256(60, 0), pa.decimal64(18, 0)], ids=str
)
def test_decimals_of_many_digits_are_apart(tmp_path, kind):
    """As Snowflake, Oracle and Spark write ids; 40 prompts were read as 21."""
    ids = pa.array([decimal.Decimal(BIG + n) for n in range(N)]).cast(kind)
    columns = long(prompt=ids.take(np.repeat(np.arange(N), K)), group=ids.take(np.repeat(np.arange(N), K)))
    path = save(tmp_path / "t.parquet", columns)
    found = read_scores(path, DualFlags())
    assert found.mask.shape == (N, K)
    assert found.groups["group"].tolist() == [str(BIG + n) for n in range(N)]
    assert open_stream(path, DualFlags(margin=("safe=0.2",))).seen.counts.prompts == N
    frame = pd.DataFrame(columns | {name: columns[name].to_pylist() for name in ("prompt", "group")})
    for table in (frame, pa.table(columns)):
        assert Scores.from_table(table).reward.shape == (N, K)


def test_decimals_are_the_responses_and_groups_that_they_spell(tmp_path):
    numbers = [decimal.Decimal(BIG + n) for n in range(N * K)]
    path = save(tmp_path / "t.parquet", long(response=numbers))
    assert read_scores(path, DualFlags()).repeated == 0
    path = save(tmp_path / "t.parquet", long(response=[*numbers[:-1], numbers[-2]]))
    assert "row 24 has a response that an earlier row" in refused_both_ways(path, *ASK)
    halves = pa.array([decimal.Decimal(n) / 2 for n in range(N)], pa.decimal128(12, 3))
    path = save(tmp_path / "t.parquet", long(group=halves.take(np.repeat(np.arange(N), K))))
    assert read_scores(path, DualFlags()).groups["group"].tolist() == ["0", "0.5", "1", "1.5", "2", "2.5"]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("index", [pa.uint8(), pa.uint32(), pa.uint64(), pa.int16()], ids=str)
def test_texts_in_dictionaries_of_any_index(text, index):
    """Those of polars and DuckDB are unsigned."""
    places = pa.array(np.repeat(np.arange(N), K), index)
    names = pa.DictionaryArray.from_arrays(places, pa.array([f"p{n}" for n in range(N)], text))
    table = pa.table(long(prompt=names, group=names))
    assert Scores.from_table(table).reward.shape == (N, K)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "ids",
    [
        [12345678901234560000, 12345678901234560001, 7],
        [BIG, BIG + 1, 0.5],
        [2**127, 2**127 + 1, 1.25],
        [10**75, 10**75 + 1, -1],
    ],
)
def test_large_numbers_of_json_are_apart(tmp_path, ids, nested):
    """Arrow reads a column with one that int64 does not hold as floats; 40 prompts were read as 1."""
    rows = [
        {"prompt": [{"content": n}] if nested else n, "group": n, "reward": k, "safe": -k}
        for n in ids
        for k in range(2)
    ]
    for name, text in (("t.jsonl", "\n".join(map(json.dumps, rows))), ("t.json", json.dumps(rows))):
        (tmp_path / name).write_text(text)
        found = read_scores(str(tmp_path / name), DualFlags())
        assert found.mask.shape == (3, 2) and found.groups["group"].tolist() == list(map(str, ids))


def test_numbers_of_json_with_too_many_digits_are_refused(tmp_path):
    rows = [{"prompt": n, "reward": k, "safe": -k} for n in (2**60, 1e300) for k in range(2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "prompt holds numbers of too many digits; write them in" in refused(
        str(tmp_path / "t.jsonl"), *ASK
    )
    rows = [{"prompt": n, "reward": k * 1e300, "safe": -k} for n in (0.5, 1.5) for k in range(2)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "line 2 holds 1e+300 in column reward" in refused(str(tmp_path / "t.jsonl"), *ASK)


def test_rows_of_a_wide_table_that_are_left_out_repeat_no_prompt(tmp_path, monkeypatch):
    """A prompt that failed, and was sampled again in a later row; and one that is constant beyond 2^53."""
    lists = {"reward": [[None], [1, 2], [2, 1]], "safe": [[None], [2**60 + 1] * 2, [2**61 + 1] * 2]}
    path = save(tmp_path / "t.parquet", {"prompt": ["a", "b", "a"]} | lists)
    flags = DualFlags(drop_missing=True, margin=("safe=0.2",))
    monkeypatch.setattr(parts, "ROWS", parts.RESPONSES)  # one row at once
    for rows in (1, 8):
        monkeypatch.setattr(tables, "rows_at_once", lambda layout, rows=rows: rows)
        assert read_scores(path, flags).mask.shape == (2, 2)
    assert open_stream(path, flags).seen.counts.prompts == 2
    path = save(
        tmp_path / "t.parquet", {"prompt": ["a", "b", "a"]} | {n: v[1:2] * 3 for n, v in lists.items()}
    )
    assert "row 3 has the prompt of row 1" in refused_both_ways(path, *ASK)
