"""Each kind of mistake in a score table, and in the flags beside it, is one line."""

import decimal
import gzip
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from tests.analysis.small_table import (
    ASK,
    DRAW,
    PROMPT,
    REWARD,
    SAFE,
    K,
    N,
    changed,
    long,
    refused,
    refused_both_ways,
    save,
)

LISTS = {"reward": REWARD.tolist(), "safe": SAFE.tolist()}
WRONG = {
    "no rows": ({name: pa.array([], pa.float64()) for name in long()}, "the table has no rows"),
    "null prompt": (changed("prompt", 5, None), "row 6 has no prompt"),
    "null response": (changed("response", 5, None), "row 6 has no response"),
    "NaN": (changed("safe", 5, float("nan")), "row 6 has no number in column safe"),
    "infinite": (changed("safe", 5, float("inf")), "row 6 holds inf in column safe"),
    "beyond float32": (changed("reward", 5, -1e39), r"row 6 holds -1e\+39 in column reward"),
    "text": (
        changed("safe", 5, 0) | {"safe": ["0.5", " 1 ", "high", *["2"] * 21]},
        "row 3 holds 'high' in column safe",
    ),
    "two groups": (long(group=["b"] * 14 + ["a"] + ["b"] * 9), "row 15 has group a, but row 13 of .* has b"),
    "a group and none": (long(group=["b"] * 14 + [None] + ["b"] * 9), "row 15 has group None, but row 13"),
    "unequal lists": (
        LISTS | {"safe": [*SAFE.tolist()[:4], SAFE[4, :3].tolist(), SAFE[5].tolist()]},
        "row 5 has 4 values of reward and 3 of safe",
    ),
    "no list": (LISTS | {"safe": [*SAFE.tolist()[:5], None]}, "row 6 has no safe, for its response 1"),
    "a hole in a list": (
        LISTS | {"safe": [*SAFE.tolist()[:5], [1, None, 2, 3]]},
        "row 6 has no safe, for its response 2",
    ),
    "an empty row": (LISTS | {n: [*v[:5], []] for n, v in LISTS.items()}, "row 6 has no responses"),
    "numbers beside lists": (LISTS | {"safe": SAFE[:, 0].tolist()}, "column safe holds double; give a list"),
    "offset columns": (
        {
            f"{n}_{k + (n == 'safe')}": v[:, k]
            for n, v in (("reward", REWARD), ("safe", SAFE))
            for k in range(K)
        },
        "columns of safe are numbered 1 to 4, those of reward 0 to 3",
    ),
    "a prompt in two rows": (
        LISTS | {"prompt": ["a", "b", None, "a", None, "b"]},
        r"row 4 has the prompt of row 1 \(2 rows repeat one\); write a row for each response",
    ),
    "large integers": (
        long(safe=[2**60 + n % 9 for n in range(N * K)]),
        "float32 rounds safe by up to 8, but in a prompt it differs by no more than 8; subtract a constant",
    ),
    "large integers in lists": (
        LISTS | {"safe": [[2**60 + 5 * k - n for k in range(K)] for n in range(N)]},
        "float32 rounds safe by up to 15, but in a prompt it differs by no more than 15",
    ),
    "large decimals in columns": (
        {f"reward_{k}": REWARD[:, k] for k in range(K)}
        | {f"safe_{k}": pa.array([decimal.Decimal(2**60 + 5 * k)] * N) for k in range(K)},
        "float32 rounds safe by up to 15, but in a prompt it differs by no more than 15",
    ),
    "a list in a long table": (
        long(safe=SAFE.repeat(K, axis=0).tolist()),
        "column safe holds list<.*>, not numbers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_one_line_both_ways(tmp_path, name):
    columns, match = WRONG[name]
    line = refused_both_ways(save(tmp_path / "t.parquet", columns), *ASK)
    assert re.search(match, line), line


FLAGS = {
    "twice": (
        ["--margin", "safe=0.1", "--margin", "safe=0.2"],
        "constraint safe: 2 goals for the same scores",
    ),
    "two kinds": (["--margin", "safe=0.1", "--at_least", "safe=0.2"], "2 goals for the same scores"),
    "unsafe_below beside a margin": (
        [*ASK, "--unsafe_below", "safe=0"],
        "--unsafe_below safe: no --max_unsafe",
    ),
    "clip twice": ([*ASK, "--clip", "safe=0,1", "--clip", "safe=0,2"], "--clip safe: given 2 times"),
    "clip upside down": ([*ASK, "--clip", "safe=1,0"], "the first bound is not below"),
    "a cost nobody asks about": ([*ASK, "--cost", "harm"], "--cost harm: there is no constraint on it"),
    "two groups of one name": (
        ["--margin", "safe@x=0", "--groups", "kind", "--groups", "sort"],
        "x is a group of kind and of sort",
    ),
    "groups twice": (
        ["--margin", "safe@x=0", "--groups", "kind", "--groups", "kind"],
        "--groups kind: given 2 times",
    ),
    "no such response column": ([*ASK, "--response", "answers"], "no column answers"),
    "folds without features": ([*ASK, "--folds", "4"], "--folds does nothing without --features"),
    "a margin beyond float32": (["--margin", "safe=1e39"], "its target is not a finite number"),
    "no such group": (["--margin", "safe@y=0", "--groups", "kind"], "no group y; the groups are x, z"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_change_nothing_or_clash(tmp_path, name):
    flags, match = FLAGS[name]
    columns = long(kind=np.repeat(["x", "z"], 12).tolist(), sort=np.repeat(["w", "x"], 12).tolist())
    assert match in refused_both_ways(save(tmp_path / "t.parquet", columns), *flags)


ARRAYS = {"reward": REWARD, "constraints": np.stack([SAFE, -SAFE], -1), "names": np.array(["safe", "other"])}
WRONG_ARRAYS = {
    "fewer names": (ARRAYS | {"names": np.array(["safe"])}, "2 constraints, but 1 names"),
    "one name for two": (ARRAYS | {"names": np.array(["safe", "reward"])}, "two arrays are named 'reward'"),
    "a mask of numbers": (ARRAYS | {"mask": 0.5 * np.ones((N, K))}, "give True or False"),
    "one axis": (ARRAYS | {"reward": REWARD[:, 0]}, "reward has shape (6,)"),
    "two groups": (ARRAYS | {"group": np.arange(N + 1)}, "give a group for each of the 6 prompts"),
    "NaN": (
        ARRAYS | {"reward": np.where(PROMPT + DRAW == 4, np.nan, REWARD)},
        "row 2 has no reward, for its response 4",
    ),
    "a prompt in two rows": (
        ARRAYS | {"prompt": np.array(list("abcdef"))[[0, 1, 2, 1, 4, 5]]},
        "row 4 has the prompt of row 2 (1 rows repeat one)",
    ),
    "large integers": (
        {"reward": REWARD, "safe": 2**60 + np.arange(N * K).reshape(N, K)},
        "float32 rounds safe by up to 23, but in a prompt it differs by no more than 3",
    ),
    "objects": ({"reward": REWARD, "safe": np.array([None])}, "not a readable npz table"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_a_wrong_archive_is_one_line(tmp_path, name):
    arrays, match = WRONG_ARRAYS[name]
    np.savez(tmp_path / "t.npz", **arrays)
    assert match in refused(str(tmp_path / "t.npz"), *ASK)


def doubled_header() -> bytes:
    return b"prompt,reward,safe,safe\na,1,2,3\na,2,1,3\n"


BROKEN = {
    "half.parquet": (lambda whole: whole[: len(whole) // 2], "not a readable parquet table"),
    "text.npz": (lambda _: b"no archive", "not a readable npz table"),
    "array.npz": (lambda _: b"\x93NUMPY\x01\x00", "not a readable npz table"),
    "twice.csv": (lambda _: doubled_header(), "2 columns are named 'safe'"),
    "short.csv": (lambda _: b"prompt,reward,safe\na,1,2\na,1\n", "Expected 3 columns, got 2"),
    "latin.csv": (lambda _: "prompt,reward,safe\né,1,2\n".encode("latin-1"), "not a readable csv table"),
    "nul.csv": (lambda _: "prompt,reward,safe\na,1,2\n".encode("utf-16-le"), "save it as UTF-8"),
    "cut.csv.gz": (lambda _: gzip.compress(doubled_header())[:-9], "not a readable csv table"),
    "list.json": (lambda _: b"[1, 2]", "its list holds more than objects"),
    "list.jsonl": (lambda _: b'{"prompt": "a"}\n{"prompt', "line 2 is not JSON"),
    "t.xlsx": (lambda _: b"PK", "cannot tell the format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(tmp_path, name):
    content, match = BROKEN[name]
    whole = (tmp_path / "t.parquet", save(tmp_path / "t.parquet", long()))[0].read_bytes()
    (tmp_path / name).write_bytes(content(whole))
    assert match in refused(str(tmp_path / name), *ASK)
    if name.endswith(".parquet"):
        assert match in refused(str(tmp_path / name), *ASK, "--stream")


def test_a_truncated_archive_is_one_line(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", reward=REWARD, safe=SAFE)
    whole = (tmp_path / "t.npz").read_bytes()
    assert zipfile.is_zipfile(tmp_path / "t.npz")
    for end in range(1, len(whole), 37):
        (tmp_path / "t.npz").write_bytes(whole[:end])
        refused(str(tmp_path / "t.npz"), *ASK)
