"""Features of a table's responses: every place that holds them reads the same; mistakes are one line."""

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.analysis.features import read_features
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.tables import read_scores
from cann_jax.files.errors import InputError

PROMPTS, RESPONSES, WIDTH = 5, 3, 4
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(PROMPTS, RESPONSES, WIDTH)).astype(np.float32)
FLAT = FEATURES.reshape(-1, WIDTH)
SCORES = {name: RNG.normal(size=(PROMPTS, RESPONSES)) for name in ("reward", "safe")}
NAMES = [f"p{n}" for n in range(PROMPTS)]
KEPT = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)  # of a ragged table
RAGGED = np.where(KEPT[..., None], FEATURES, 0)


def long(emb, rows=slice(None), **more) -> pa.Table:
    """A row for each response; ``rows`` of them, in that order."""
    columns = {"prompt": np.repeat(NAMES, RESPONSES), **{n: s.ravel() for n, s in SCORES.items()}, **more}
    table = pa.table({name: values[rows] for name, values in columns.items()})
    return table if emb is None else table.append_column("emb", emb)


def wide(emb=None, kept=None, **more) -> pa.Table:
    """A row for each prompt, scores in list columns."""
    kept = np.ones((PROMPTS, RESPONSES), bool) if kept is None else kept
    columns = {n: [list(row[own]) for row, own in zip(s, kept, strict=True)] for n, s in SCORES.items()}
    return pa.table({"prompt": NAMES, **columns, **({} if emb is None else {"emb": emb}), **more})


def numbered(**more) -> pa.Table:
    """A row for each prompt, scores in numbered columns."""
    columns = {f"{n}_{k}": s[:, k] for n, s in SCORES.items() for k in range(RESPONSES)}
    return pa.table({"prompt": NAMES, **columns, **more})


def by_response() -> dict[str, list]:
    return {f"emb_{k}": FEATURES[:, k].tolist() for k in range(RESPONSES)}


def read(folder: Path, table: pa.Table | dict | None, features="emb") -> tuple[np.ndarray, list[str]]:
    """The features, and the names of the scores, of a table saved to a file."""
    if isinstance(table, dict):
        path = str(folder / "t.npz")
        np.savez(path, **table)
    else:
        path = str(folder / "t.parquet")
        pq.write_table(table, path)
    if not isinstance(features, str):
        np.save(folder / "features.npy", features)
        features = str(folder / "features.npy")
    found = read_scores(path, DualFlags(features=features))
    return read_features(path, features, found), list(found.scores)


LISTS = FLAT.tolist()
FULL = {
    "long": long(pa.array(LISTS)),
    "long of float32": long(pa.array(LISTS, pa.list_(pa.float32()))),
    "long of fixed size": long(pa.array(LISTS, pa.list_(pa.float32(), WIDTH))),
    "long of large lists": long(pa.array(LISTS, pa.large_list(pa.float64()))),
    "long, numbered": long(None, **{f"emb_{j}": FLAT[:, j] for j in range(WIDTH)}),
    "wide": wide(FEATURES.tolist()),
    "wide of fixed size": wide(pa.array(FEATURES.tolist(), pa.list_(pa.list_(pa.float32(), WIDTH)))),
    "wide, numbered features": wide(**by_response()),
    "numbered": numbered(**by_response()),
    "numbered, nested features": numbered(emb=FEATURES.tolist()),
    "npz": {**SCORES, "emb": FEATURES.astype(np.float64)},
}


@pytest.mark.parametrize("name", FULL)
def test_a_tables_own_features_read_the_same_and_are_no_score(tmp_path, name):
    found, scores = read(tmp_path, FULL[name])
    assert found.dtype == np.float32 and scores == ["reward", "safe"]
    np.testing.assert_array_equal(found, FEATURES)


@pytest.mark.parametrize(
    "table", [long(None), wide(), numbered(), SCORES], ids=["long", "wide", "num", "npz"]
)
@pytest.mark.parametrize("values", [FLAT, FEATURES, FLAT.astype(np.float64)], ids=["flat", "3-D", "float64"])
def test_a_file_reads_the_same_beside_every_table(tmp_path, table, values):
    np.testing.assert_array_equal(read(tmp_path, table, values)[0], FEATURES)


def test_half_precision_and_integers(tmp_path):
    half = FEATURES.astype(np.float16)
    np.testing.assert_array_equal(read(tmp_path, long(None), half)[0], half.astype(np.float32))
    whole = np.arange(FLAT.size).reshape(FLAT.shape)
    np.testing.assert_array_equal(
        read(tmp_path, long(pa.array(whole.tolist())))[0], whole.reshape(FEATURES.shape)
    )


@pytest.mark.parametrize(
    "table", [long(pa.array(FLAT[:, 0])), wide(FEATURES[..., 0].tolist())], ids=["long", "wide"]
)
def test_a_number_is_one_feature(tmp_path, table):
    np.testing.assert_array_equal(read(tmp_path, table)[0], FEATURES[..., :1])


RAGGED_TABLES = {
    "wide": (wide([list(map(list, f[own])) for f, own in zip(FEATURES, KEPT, strict=True)], KEPT), "emb"),
    "wide, numbered features": (
        wide(
            None,
            KEPT,
            **{
                f"emb_{k}": [
                    list(row[k]) if own[k] else None for row, own in zip(FEATURES, KEPT, strict=True)
                ]
                for k in range(RESPONSES)
            },
        ),
        "emb",
    ),
    "wide, file": (wide(None, KEPT), FEATURES[KEPT]),
    "npz": ({**SCORES, "mask": KEPT, "emb": np.where(KEPT[..., None], FEATURES, np.nan)}, "emb"),
    "npz, file of rows": ({**SCORES, "mask": KEPT}, FEATURES[KEPT]),
}


@pytest.mark.parametrize("name", RAGGED_TABLES)
def test_missing_responses_have_zeros(tmp_path, name):
    found, _ = read(tmp_path, *RAGGED_TABLES[name])
    np.testing.assert_array_equal(found, RAGGED)


def test_rows_in_any_order(tmp_path):
    rows = np.random.default_rng(1).permutation(PROMPTS * RESPONSES)[:11]
    expected, seen = {}, {}
    for row in rows:  # prompts by first appearance, responses by the order of their rows
        prompt = seen.setdefault(row // RESPONSES, len(seen))
        expected.setdefault(prompt, []).append(FLAT[row])
    kept = pa.array(FLAT[rows].tolist())
    for table, features in ((long(kept, rows), "emb"), (long(None, rows), FLAT[rows])):
        found, _ = read(tmp_path, table, features)
        assert found.shape == (len(seen), max(map(len, expected.values())), WIDTH)
        for prompt, values in expected.items():
            np.testing.assert_array_equal(found[prompt, : len(values)], values)
            assert not found[prompt, len(values) :].any()


def test_lists_beside_the_scores_that_nobody_asked_for_are_left_alone(tmp_path):
    tokens = [[1] * (1 + row % 3) for row in range(len(FLAT))]
    table = long(pa.array(LISTS), tokens=np.array(tokens, object))
    np.testing.assert_array_equal(read(tmp_path, table)[0], FEATURES)


def changed(values, at, value):
    values = np.array(values)
    values[at] = value
    return values


SHORT = [*LISTS[:6], LISTS[6][:3], *LISTS[7:]]
MISTAKES = {
    "no column": (long(None), "emb", r"t.parquet: no column emb; the columns are prompt"),
    "text": (long(pa.array(["a"] * len(FLAT))), "emb", "column emb holds string; give a list of numbers"),
    "lists of text": (long(pa.array([["a"]] * len(FLAT))), "emb", r"emb holds list<.*string>; give a list"),
    "flat lists in a wide table": (wide(LISTS[:PROMPTS]), "emb", "row 1 has 4 entries for 3 responses"),
    "numbers in a wide table": (wide([1.0] * PROMPTS), "emb", "holds double; give a list of lists"),
    "a shorter list": (long(pa.array(SHORT)), "emb", "row 7 has 3 numbers, the first list 4"),
    "empty lists": (long(pa.array([[]] * len(FLAT), pa.list_(pa.float32()))), "emb", r"shape \(15, 0\)"),
    "a list too few": (
        wide([f.tolist()[: 2 + (n != 1)] for n, f in enumerate(FEATURES)]),
        "emb",
        "row 2 has 2 entries for 3 responses",
    ),
    "columns offset from the scores'": (
        numbered(**{f"emb_{k + 1}": FEATURES[:, k].tolist() for k in range(RESPONSES)}),
        "emb",
        "columns of emb are numbered 1 to 3, those of reward 0 to 2; give both the same numbers",
    ),
    "columns with a gap": (
        wide(**{f"emb_{k + (k > 1)}": FEATURES[:, k].tolist() for k in range(RESPONSES)}),
        "emb",
        "columns of emb are numbered 0, 1, 3; leave none out",
    ),
    "unequal columns": (
        numbered(**{**by_response(), "emb_1": FEATURES[:, 1, :2].tolist()}),
        "emb",
        "numbered columns hold 4, 2, 4 numbers",
    ),
    "a null": (
        long(pa.array([*LISTS[:4], None, *LISTS[5:]])),
        "emb",
        r"of 1 responses are missing.*first: row 5",
    ),
    "NaN": (
        long(pa.array(changed(FLAT, ([9, 3], 2), np.nan).tolist())),
        "emb",
        r"of 2 responses are missing, NaN or infinite \(first: row 4\)",
    ),
    "NaN in a wide table": (
        wide(changed(FEATURES, (3, 1, 2), np.nan).tolist()),
        "emb",
        "prompt 3 response 1",
    ),
    "too large for float32": (long(None), changed(FLAT.astype(float), (2, 0), 1e300), "first: row 3"),
    "too few rows": (long(None), FLAT[:-1], r"shape \(14, 4\); give \(15, F\).* or \(5, 3, F\)"),
    "too many responses": (long(None), FEATURES[:, :2], r"shape \(5, 2, 4\); give"),
    "one number": (long(None), np.float32(1), r"shape \(\); give"),
    "text in a file": (long(None), np.full((15, 2), "a"), "holds <U1, not numbers"),
    "complex": (long(None), FLAT * 1j, "holds complex64, not numbers"),
    "objects": (long(None), np.array([None] * 15), "not a readable .npy file"),
    "npz of two axes": ({**SCORES, "emb": FEATURES[..., 0]}, "emb", r"array emb has shape \(5, 3\)"),
    "npz without": (dict(SCORES), "emb", "no column emb; the columns are reward"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(tmp_path, name):
    table, features, match = MISTAKES[name]
    with pytest.raises(InputError, match=match) as caught:
        read(tmp_path, table, features)
    assert "\n" not in str(caught.value)


def npy(header: str) -> bytes:
    """A file that begins as an array's, with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + bytes(64)


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("none.npy", None, "no such file"),
        ("empty.npy", b"", "not a readable"),
        ("x.npy", b"text", "not a readable"),
        ("many.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2**70, 1)}"), "not a readable"),
        (
            "huge.npy",
            npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70},)}}"),
            "not a readable",
        ),
        ("deep.npy", npy("(" * 9000), "not a readable"),
        ("minus.npy", npy("-" * 9000 + "1"), "not a readable"),
        ("keys.npy", npy("{1: 2, 'a': 3}"), "not a readable"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, match):
    pq.write_table(long(None), tmp_path / "t.parquet")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path, features = str(tmp_path / "t.parquet"), str(tmp_path / name)
    with pytest.raises(InputError, match=match) as caught:
        read_features(path, features, read_scores(path, DualFlags(features=features)))
    assert features in str(caught.value)


@pytest.mark.parametrize("name", ["reward", "prompt", "safe"])
def test_a_column_with_another_purpose_holds_no_features(tmp_path, name):
    pq.write_table(long(None), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=f"--features {name}: this column has another purpose"):
        read_scores(str(tmp_path / "t.parquet"), DualFlags(features=name), ["safe"])
