"""How score tables are read: each kind of file, with the right value."""

import csv
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.analysis import parts, tables
from cann_jax.analysis.columns import numbers
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.formats import KeyColumns, read_arrow
from cann_jax.analysis.tables import read_scores
from cann_jax.dual import main
from tests.analysis.independent import Dual, Goal
from tests.analysis.small_table import (
    ASK,
    EVERYONE,
    NAMES,
    REWARD,
    SAFE,
    K,
    N,
    expected,
    long,
    multiplier,
    refused,
    refused_both_ways,
    save,
)


@pytest.mark.parametrize("size", [2, 400])
def test_newlines_in_quotes_are_no_rows(tmp_path, size):
    prompts = [f'line one {n}\n"two", {n}\r\n{"x" * (size * 50)}\n' for n in range(60)]
    rows = [(p, f"a\n{k}", n % 7 + k, k * (n % 5)) for n, p in enumerate(prompts) for k in range(3)]
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "response", "reward", "safe"), *rows])
    assert size == 2 or path.stat().st_size > 3e6
    found = read_scores(str(path), DualFlags(), ["safe"])
    np.testing.assert_array_equal(found.scores["reward"], [[n % 7 + k for k in range(3)] for n in range(60)])
    np.testing.assert_array_equal(found.scores["safe"], [[k * (n % 5) for k in range(3)] for n in range(60)])


def test_a_list_of_objects_may_lack_keys(tmp_path):
    rows = [{"prompt": "a", "reward": 1}, {"prompt": "a", "safe": 2, "reward": 3}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert "row 1 has no number in column safe" in refused(str(tmp_path / "t.json"), *ASK)
    (tmp_path / "t.json").write_text(json.dumps([{"prompt": 7, "reward": 1}, {"prompt": "7", "reward": 1}]))
    assert "prompt holds values of several types" in refused(str(tmp_path / "t.json"), *ASK)


def test_faults_of_text_are_named_by_the_line_that_an_editor_shows(tmp_path):
    """A blank line, and an answer of two lines, before the row at fault; its prompt's first is in line 6."""
    text = 'prompt,response,reward,safe,group\n"a","x\ny",1,2,g\na,z,2,1,g\n\nb,x,1,1,g\nb,y,1,{},{}\n'
    path = tmp_path / "t.csv"
    for safe, group, match in (
        ("good", "g", "line 7 holds 'good' in column safe, not a number; fix it"),
        ("", "g", "line 7 has no number in column safe; fill it in"),
        ("1", "h", "line 7 has group h, but line 6 of the same prompt has g"),
    ):
        path.write_text(text.format(safe, group))
        assert match in refused(str(path), *ASK)
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": 1, "reward": 1, "safe": 1}\n\n{"prompt": 1, "reward": 1}\n')
    assert "line 3 has no number in column safe" in refused(str(path), *ASK)


def test_missing_values_are_counted_all_at_once(tmp_path):
    holes = [None if n in (3, 9, 17) else 1.0 * n for n in range(N * K)]
    line = refused(save(tmp_path / "t.csv", long(safe=holes, weight=[None] + [1] * 23)), *ASK)
    assert "line 5 has no number in column safe, one of 3 rows that lack something; fill" in line
    lists = {"reward": REWARD.tolist(), "safe": [[None, 1, 2, None], *SAFE[1:].tolist()]}
    line = refused(save(tmp_path / "t.parquet", lists), *ASK)
    assert "row 1 has no safe, for its response 1, one of 2 responses that lack a score; fill" in line


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_decimal_comma_is_named(tmp_path, separator):
    rows = [["prompt", "reward", "safe"], ["a", "1", '"2,2697"'], ["a", "2", "1"]]
    (tmp_path / "t.csv").write_text("\n".join(map(separator.join, rows)))
    line = refused(str(tmp_path / "t.csv"), *ASK)
    said = "line 2 holds '2,2697' in column safe, with a decimal comma; write 2.2697, or export with points"
    assert said in line


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_index_that_pandas_writes_is_no_score(tmp_path, capsys, monkeypatch, name):
    path = save(tmp_path / "t.csv", {name: list(range(N * K))} | long())
    main(["--scores", path, "--margin", "0.2", "--beta", "0.5", "--resamples", "0"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"! column {name!r} has no name and counts the rows; it was left out." in printed
    path = save(tmp_path / "t.parquet", {name: list(range(N * K))} | long())
    main(["--scores", path, "--margin", "0.2", "--beta", "0.5", "--stream"])
    assert f"! column {name!r} has no name and counts the rows" in capsys.readouterr().out
    monkeypatch.setattr(tables, "rows_at_once", lambda layout: 1)  # as of a table too large for it
    found = read_scores(path, DualFlags())
    assert list(found.scores) == ["reward", "safe"] and found.counter == name
    others = {name: [7, *range(1, N * K)]} | long()
    assert list(read_scores(save(tmp_path / "t.csv", others), DualFlags()).scores) == ["reward", name, "safe"]


def test_integer_groups_and_columns_of_truth(tmp_path):
    members = np.arange(N) % 2 == 1
    right = expected(members=members.astype(float))
    integers = np.repeat(members.astype(int), K).tolist()
    truths = np.repeat(members, K).tolist()
    for suffix in ("csv", "parquet"):
        path = save(tmp_path / f"t.{suffix}", long(group=integers, harm=truths))
        assert multiplier(path, margin=("safe@1=0.2",)) == pytest.approx(right, abs=1e-5)
        path_flags = {"groups": ("harm",), "margin": ("safe@harm=0.2",)}
        assert multiplier(path, **path_flags) == pytest.approx(right, abs=1e-5)


# Texts, each with the number that it spells; None: it spells none.
SPELLED = {
    **{"1.": 1.0, ".5": 0.5, "+5": 5.0, "1e5": 1e5, "-2E-3": -0.002, "Inf": np.inf, "-infinity": -np.inf},
    **{"": np.nan, " NA": np.nan, "NaN": np.nan, "null": np.nan, " 1.5 ": 1.5},
    **dict.fromkeys(["nan(0)", "-nan", "0x1F", "1_0", "1d5", "1,5", "1 2", "--1", "e5", "true"]),
}


@pytest.mark.parametrize("company", ["alone", "among numbers", "late"])
@pytest.mark.parametrize("text", SPELLED)
def test_what_text_counts_as_a_number(text, company):
    """Columns that hold only numbers are read by another way, which has to agree."""
    others = {"alone": 0, "among numbers": 10, "late": 100}[company]
    values, wrong = numbers(pa.chunked_array([[*map(str, range(others)), text]]))
    assert values[:-1].tolist() == list(range(others)) and not wrong[:-1].any()
    assert wrong[-1] == (SPELLED[text] is None)
    np.testing.assert_equal(values[-1], np.nan if SPELLED[text] is None else SPELLED[text])


def test_quotes_mean_the_same_with_and_without_spaces(tmp_path):
    """Separators, quotes and line ends in quotes are text, so are "NA" and quotes within a value."""
    rows = [["prompt", "reward", "safe"], ['"a, b"', "1", "2"], ['"say "",  ""\r\n ok"', "3", '"4"']]
    rows += [['"NA"', "5", "6"], ['5" wide', "7", "8"], ['""', "9", "10"]]
    keys = KeyColumns(("prompt",), ())
    tables = []
    for name, separator in (("plain.csv", ","), ("spaced.csv", ",  ")):
        (tmp_path / name).write_text("\r\n".join(map(separator.join, rows)), newline="")
        tables.append(read_arrow(str(tmp_path / name), ".csv", keys).to_pylist())
    assert tables[0] == tables[1]
    prompts = ["a, b", 'say ",  "\r\n ok', "NA", '5" wide', ""]
    assert [row["prompt"] for row in tables[1]] == prompts


@pytest.mark.parametrize("quote", ["", '"'])
def test_spaces_after_separators_are_no_part_of_a_value(tmp_path, quote):
    rows = "".join(f"{quote}a  b{quote},  {n}, {-n}\n" for n in range(3))
    (tmp_path / "t.csv").write_text("prompt, reward,  safe\n" + rows)
    found = read_scores(str(tmp_path / "t.csv"), DualFlags())
    np.testing.assert_array_equal(found.scores["safe"], [[0, -1, -2]])


@pytest.mark.parametrize("shuffled", [False, True])
def test_many_rows_are_read_in_parts(tmp_path, monkeypatch, shuffled):
    """What comes out is what reading all of them at once gives, in whatever order the rows are."""
    rng = np.random.default_rng(0)
    prompt = np.repeat([f"p{n}" for n in range(30)], rng.integers(1, 9, size=30))
    order = rng.permutation(len(prompt)) if shuffled else np.arange(len(prompt))
    rows = {"prompt": prompt, "reward": rng.normal(size=len(prompt)), "safe": rng.normal(size=len(prompt))}
    rows |= {"group": np.array([name[-1] for name in prompt]), "weight": np.array([len(n) for n in prompt])}
    rows["reward"][3] = np.nan
    path = save(tmp_path / "t.parquet", {name: values[order].tolist() for name, values in rows.items()})
    flags = DualFlags(drop_missing=True, prompt_weights="weight", cost=("safe",))
    whole = read_scores(path, flags)
    assert whole.dropped == 1 and not whole.mask.all()
    monkeypatch.setattr(parts, "ROWS", 16)
    again = read_scores(path, flags)
    for name in ("scores", "precision", "mask", "groups", "weights", "dropped", "repeated"):
        np.testing.assert_equal(getattr(again, name), getattr(whole, name))
    assert (again.rows is None) == (not shuffled)  # so it was read in parts


def test_numbers_of_any_type(tmp_path):
    whole = np.round(3 * REWARD).astype(int), np.round(2 * SAFE).astype(int)
    right = expected(*whole, value=0.4)
    for kind in (pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.decimal128(22, 2), pa.string()):
        values = [np.abs(v) if kind == pa.uint64() else v for v in whole]
        columns = {
            name: pa.array(v.ravel().tolist()).cast(kind)
            for name, v in zip(("reward", "safe"), values, strict=True)
        }
        path = save(tmp_path / "t.parquet", long(**columns))
        answer = multiplier(path, margin=("safe=0.4",))
        assert answer == pytest.approx(
            expected(*values, value=0.4) if kind == pa.uint64() else right, abs=1e-5
        )


def test_scores_whose_differences_float32_would_lose_are_refused(tmp_path):
    for suffix, values in (("reward", REWARD), ("safe", SAFE)):
        path = save(tmp_path / "t.parquet", long(**{suffix: (values + 1e6).ravel().tolist()}))
        line = refused_both_ways(path, *ASK)
        assert re.search(
            rf"float32 rounds {suffix} by up to 0.0[23]\d*, but in a prompt it differs by no", line
        )
    constant = save(tmp_path / "t.parquet", long(reward=[0.1] * (N * K)))
    assert multiplier(constant) == pytest.approx(expected(np.zeros((N, K))), abs=1e-5)
    near = save(tmp_path / "t.parquet", long(reward=(REWARD + 1000).ravel().tolist()))
    assert multiplier(near) == pytest.approx(expected(), abs=1e-3)


def test_large_integers_keep_their_differences(tmp_path):
    path = save(
        tmp_path / "t.parquet", long(reward=(np.round(3 * REWARD).ravel() + (1 << 22)).astype(int).tolist())
    )
    assert multiplier(path) == pytest.approx(expected(np.round(3 * REWARD)), abs=1e-5)


def test_chats_are_prompts(tmp_path):
    chats = [[{"role": "user", "content": name}] for name in NAMES for _ in range(K)]
    path = tmp_path / "t.jsonl"
    rows = [dict(zip(long(), row, strict=True)) for row in zip(*long(prompt=chats).values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert multiplier(str(path)) == pytest.approx(expected(), abs=1e-5)
    assert multiplier(save(tmp_path / "t.parquet", long(prompt=chats))) == pytest.approx(expected(), abs=1e-5)


def test_equal_texts_are_draws_and_equal_numbers_are_doubled_rows(tmp_path, capsys):
    path = save(tmp_path / "t.parquet", long(response=["the same"] * (N * K)))
    main(["--scores", path, *ASK, "--stream"])
    assert f"{N * (K - 1)} responses repeat another of their prompt" in capsys.readouterr().out
    assert multiplier(path) == pytest.approx(expected(), abs=1e-5)
    numbers = np.tile(np.arange(K), N)
    numbers[6] = 1
    for suffix in ("csv", "parquet"):
        line = refused(save(tmp_path / f"t.{suffix}", long(response=numbers.tolist())), *ASK)
        where = "line 8" if suffix == "csv" else "row 7"
        assert f"{where} has a response that an earlier row of its prompt has" in line


def test_dropping_what_is_incomplete_is_counted(tmp_path, capsys):
    hole = long(weight=[1.0] * (N * K))
    hole["prompt"][5], hole["response"][9], hole["safe"][9], hole["weight"][23] = (
        None,
        None,
        float("nan"),
        None,
    )
    path = save(tmp_path / "t.parquet", hole)
    flags = ["--prompt_weights", "weight", "--drop_missing"]
    kept = [np.delete(np.arange(K), {1: [1], 2: [1], 5: [3]}.get(n, [])) for n in range(N)]
    right = expected(*([v[n, own] for n, own in enumerate(kept)] for v in (REWARD, SAFE)))
    answer = multiplier(path, prompt_weights="weight", drop_missing=True)
    assert answer == pytest.approx(right, abs=1e-5)
    for extra in ([], ["--stream"]):
        main(["--scores", path, *ASK, *flags, *(extra or ["--resamples", "0"])])  # λ with all its digits
        printed = capsys.readouterr().out
        assert "3 rows or responses lack something and were left out" in printed
        assert f"{right:.4f}"[:5] in printed


def test_a_cost_has_its_sign_changed(tmp_path):
    costs = long(safe=(-SAFE).ravel().tolist())
    path = save(tmp_path / "t.parquet", costs)
    assert multiplier(path, cost=("safe",)) == pytest.approx(expected(), abs=1e-5)
    level = float(SAFE.mean()) + 0.3
    answer = multiplier(path, cost=("safe",), margin=(), at_least=(f"safe={level}",))
    assert answer == pytest.approx(expected(kind="at_least", value=level), abs=1e-5)
    chance = {"cost": ("safe",), "margin": (), "max_unsafe": ("safe=0.3",), "unsafe_below": ("safe=-0.2",)}
    problem = [Goal(list(SAFE), "max_unsafe", 0.3, EVERYONE, -0.2)]
    right = Dual(list(REWARD), EVERYONE, problem, 0.5).minimum()[0]
    assert multiplier(path, **chance) == pytest.approx(right, abs=1e-5)
    price = save(tmp_path / "r.parquet", long(reward=(-REWARD).ravel().tolist()))
    assert multiplier(price, cost=("reward",)) == pytest.approx(expected(), abs=1e-5)


def test_weights_beyond_float32(tmp_path):
    weights = np.array([1, 2, 1, 3, 1, 2.0])
    for scale in (1e-60, 1e60):
        path = save(tmp_path / "t.parquet", long(weight=np.repeat(scale * weights, K).tolist()))
        answer = multiplier(path, prompt_weights="weight")
        assert answer == pytest.approx(expected(weights=weights), abs=1e-5)


def test_ragged_numbered_columns(tmp_path):
    columns = {
        f"{n}_{k}": v[:, k].tolist() for n, v in (("reward", REWARD), ("safe", SAFE)) for k in range(K)
    }
    columns["reward_3"][2] = columns["safe_3"][2] = None
    rows = (
        [own[: 3 if n == 2 else K] for n, own in enumerate(REWARD)],
        [own[: 3 if n == 2 else K] for n, own in enumerate(SAFE)],
    )
    path = save(tmp_path / "t.parquet", columns)
    assert multiplier(path) == pytest.approx(expected(*rows), abs=1e-5)
    columns["safe_3"][2] = 0.5
    line = refused_both_ways(save(tmp_path / "t.parquet", columns), *ASK)
    assert "row 3 has no reward, for its response 4" in line


@pytest.mark.parametrize(
    "weight, match",
    [
        ([1.0] * 14 + [2.0] + [1.0] * 9, "row 15 has weight 2.0, but row 13 of the same prompt has 1.0"),
        ([1.0] * 20 + [-1.0] * 4, "row 21 holds -1 in column weight"),
        ([None] + [1.0] * 23, "row 1 has no number in column weight"),
        ([0.0] * 24, "prompt_weights are all 0"),
    ],
)
def test_wrong_weights(tmp_path, weight, match):
    path = save(tmp_path / "t.parquet", long(weight=weight))
    assert match in refused_both_ways(path, *ASK, "--prompt_weights", "weight")
    refused_both_ways(path, "--margin", "safe@nobody=1", "--prompt_weights", "weight")


def test_prompts_that_stand_apart_are_found_anywhere_in_a_stream(tmp_path):
    names = np.repeat(["a", "b", "c", "d", "b", "e"], 4).tolist()  # b in the middle of two parts
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(long(prompt=names)), path, row_group_size=12)
    assert "rows of a prompt are not adjacent" in refused(str(path), *ASK, "--stream")


def test_groups_that_no_goal_is_about_are_reported_where_the_table_is_in_memory(tmp_path, capsys):
    path = save(tmp_path / "t.parquet", long(kind=np.repeat(["x", "z"], 12).tolist()))
    main(["--scores", path, *ASK, "--groups", "kind", "--resamples", "0"])
    assert "by group" in capsys.readouterr().out
    line = refused(path, *ASK, "--groups", "kind", "--stream")
    assert "--groups kind: no goal is about a group (NAME@GROUP=VALUE), and --stream reports none" in line


@pytest.mark.parametrize("flag", ["--confidence=0.9", "--resamples=7", "--seed=3"])
def test_a_stream_has_no_intervals(tmp_path, flag):
    path = save(tmp_path / "t.parquet", long())
    assert f"{flag.partition('=')[0]} does nothing with --stream" in refused(path, *ASK, "--stream", flag)


def test_an_archive_of_integers(tmp_path):
    whole = np.round(3 * REWARD).astype(int), np.round(2 * SAFE).astype(int)
    np.savez(tmp_path / "t.npz", reward=whole[0], safe=whole[1], group=np.arange(N) % 2)
    right = expected(*whole, members=(np.arange(N) % 2).astype(float))
    assert multiplier(str(tmp_path / "t.npz"), margin=("safe@1=0.2",)) == pytest.approx(right, abs=1e-5)


def test_na_of_a_csv_is_missing_and_in_quotes_a_text(tmp_path):
    """R writes missing values so: taken for a name, they made unrelated prompts one."""
    rows = [f"{prompt},{k},{REWARD[prompt, k]},{SAFE[prompt, k]}" for prompt, k in np.ndindex(*REWARD.shape)]
    for name in ("NA", '"NA"'):
        own = [row.replace("3,", f"{name},", 1) if row.startswith("3,") else row for row in rows]
        (tmp_path / "t.csv").write_text("\n".join(["prompt,response,reward,safe", *own]))
        if name == "NA":
            assert "has no prompt, one of" in refused(str(tmp_path / "t.csv"), "--margin", "safe=0.2")
        else:
            assert multiplier(str(tmp_path / "t.csv")) == pytest.approx(expected(), rel=1e-4)


def test_a_header_may_be_long_and_behind_empty_lines(tmp_path):
    """Only 64 KB of it were read, and its first line; names that were not known were read as numbers."""
    names = [
        f"{name}_of_the_response_with_a_long_name_{k}" for name in ("reward", "safe") for k in range(900)
    ]
    row = ",".join("1.5" if n % 2 else "007" for n in range(1800))
    (tmp_path / "t.csv").write_text(f"\n\r\n{','.join(names)}\n{row}\n\n{row}\n")
    flags = DualFlags(reward="reward_of_the_response_with_a_long_name")
    assert (tmp_path / "t.csv").stat().st_size > 1 << 16 and read_scores(
        str(tmp_path / "t.csv"), flags
    ).mask.shape == (2, 900)
    (tmp_path / "t.csv").write_text("\nprompt,reward,safe\n007,1,2\n7,2,x\n")
    assert "line 4 holds 'x' in column safe" in refused(str(tmp_path / "t.csv"), *ASK)
