"""Scorers: values by hand, signs, and every way in which their input can be bad."""

import decimal
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cann_jax.config.model import PromptsConfig
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.data.templates import prompt_ids
from cann_jax.files.errors import InputError
from cann_jax.files.functions import users_code
from cann_jax.run.scorers import check_coverage
from cann_jax.scorers import check_finite
from tests.builders import toy_scorers
from tests.builders.scorers import KEY, PROMPTS, TEXTS, load_scorer


@pytest.fixture(scope="module")
def responses(model) -> Responses:
    prompts = (Prompt("007", "Hello"), Prompt("b", "Tell me"))
    ids = tuple(prompt_ids(prompt, model.tokenizer, PROMPTS) for prompt in prompts)
    tokens = np.random.default_rng(0).integers(0, 300, (2, 2, 5)).astype(np.int32)
    lengths = np.array([[5, 2], [1, 4]], np.int32)
    logps = model.logps(ids, tokens, lengths)
    return Responses(EncodedPrompts(prompts, ids), tokens, lengths, lengths < 5, logps, TEXTS)


def load(values: dict, model=None):
    return load_scorer(values, model)


def score(values: dict, responses, model=None) -> np.ndarray:
    return load(values, model)(responses, responses.logps).values


def message(values: dict, responses=None, model=None) -> str:
    with pytest.raises(InputError) as error:
        scorer = load(values, model)
        if responses is not None:
            scorer(responses, responses.logps)
    assert "\n" not in str(error.value) and KEY in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("per_token", [False, True])
def test_relevance_by_hand(model, responses, per_token):
    values = {"kind": "relevance", "neutral_prompt": "Say something.", "per_token": per_token}
    neutral = prompt_ids(Prompt("", "Say something."), model.tokenizer, PROMPTS)
    got = score(values, responses, model)
    for n, k in np.ndindex(2, 2):
        tokens, length = responses.tokens[n : n + 1, k : k + 1], responses.lengths[n : n + 1, k : k + 1]
        own = model.logps([responses.prompts.ids[n]], tokens, length)[0, 0]
        expected = (own - model.logps([neutral], tokens, length)[0, 0]) / (length[0, 0] if per_token else 1)
        assert got[n, k] == pytest.approx(expected, abs=5e-5)
    assert np.abs(got).max() > 1e-3


IMPLICIT = {"kind": "implicit", "beta": 0.5, "prealigned": {"system_prompt": "Be kind."}}


def test_implicit_by_hand(model, responses):
    got = score(IMPLICIT, responses, model)
    kind = PromptsConfig(train="", heldout="", on_overlong="error", system="Be kind.")
    for n, k in np.ndindex(2, 2):
        tokens, length = responses.tokens[n : n + 1, k : k + 1], responses.lengths[n : n + 1, k : k + 1]
        ids = prompt_ids(responses.prompts.prompts[n], model.tokenizer, kind)
        other = model.logps([ids], tokens, length)[0, 0]
        plain = model.logps([responses.prompts.ids[n]], tokens, length)[0, 0]
        assert got[n, k] == pytest.approx(0.5 * (other - plain), abs=5e-5)
    assert np.abs(got).max() > 1e-3


def test_implicit_reads_no_prompt_that_was_cut_for_its_system_message(model, responses):
    scorer = load(IMPLICIT, model)
    prompts = responses.prompts.prompts
    longest = max(len(prompt_ids(prompt, model.tokenizer, scorer.prompts)) for prompt in prompts)
    shorter = replace(scorer.prompts, on_overlong="truncate_prompt_left", max_tokens=longest - 1)
    with pytest.raises(InputError) as error:
        replace(scorer, prompts=shorter)(responses, responses.logps)
    said = "2 of 2 prompts would be cut to make room for prealigned.system_prompt; shorten it, or lower "
    assert str(error.value) == f"{KEY}: {said}prompts.max_tokens"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0}, "must be a finite number above 0"),
        ({"prealigned": {}}, "has no source; give one of system_prompt, preference, adapter, model"),
        (
            {"prealigned": {"system_prompt": "Be kind.", "preference": "safer"}},
            "has system_prompt and preference",
        ),
        (
            {"prealigned": {"system_prompt": "Be kind.", "revision": "main"}},
            "no model is given; leave it out",
        ),
        ({"prealigned": {"system": "Be kind."}}, "did you mean"),
    ],
)
def test_bad_implicit(model, changes, said):
    assert said in message({**IMPLICIT, **changes}, model=model)


def test_inoffensive_prefers_the_kind_text(responses):
    values = score({"kind": "inoffensive"}, responses)
    assert values[0, 0] < 0 < values[0, 1] and values.dtype == np.float32


def test_inoffensive_clips_and_counts(responses):
    scored = load({"kind": "inoffensive", "clip": 0.4})(responses, responses.logps)
    assert scored.counts == {"clipped": 4}
    assert np.abs(scored.values).max() == pytest.approx(np.log(0.6 / 0.4), abs=1e-6)


def test_inoffensive_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "profanity_check", None)  # what Python itself does for a blocked import
    assert "pip install alt-profanity-check" in message({"kind": "inoffensive"})


def test_probe_of_the_wrong_way_round():
    probe = {"prompt": "Hi", "better": "You piece of shit.", "worse": "Thank you."}
    assert "check which way is better" in message({"kind": "inoffensive", "probe": probe})
    load({"kind": "inoffensive", "probe": {**probe, "better": "Thank you.", "worse": "You piece of shit."}})


ROWS = {"prompt_id": ["007", "007", "b", "b"], "response": [0, 1, 0, 1], "toxicity": [0.5, -1.0, 2.0, 4.0]}


def write(path, **changes) -> str:
    table = pa.table({name: column for name, column in {**ROWS, **changes}.items() if column is not None})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return str(path)


def column(path: str, better: str = "higher", name: str = "toxicity") -> dict:
    return {"kind": "column", "path": path, "column": name, "better": better}


def test_ids_of_a_column_that_look_like_one_number(tmp_path):
    ids, numbers = ["7", "007", "7\n", "+7"], [0, 0, 0, 0]
    for suffix in (".parquet", ".csv", ".jsonl"):
        path = write(tmp_path / f"scores{suffix}", prompt_id=ids, response=numbers)
        assert load(column(path)).scores == {
            (name, 0): t for name, t in zip(ids, ROWS["toxicity"], strict=True)
        }


def test_ids_of_a_column_beyond_float64(tmp_path):
    """JSON's were read as floats, of which two were one; those of databases are decimals."""
    ids = [12345678901234567890, 12345678901234567891, 7, 8]
    expected = {(str(name), 0): score for name, score in zip(ids, ROWS["toxicity"], strict=True)}
    for suffix, kind in ((".jsonl", pa.uint64()), (".parquet", pa.decimal128(38, 0))):
        given = pa.array(map(decimal.Decimal, ids), pa.decimal128(38, 0)).cast(kind)
        path = write(tmp_path / f"scores{suffix}", prompt_id=given, response=[0] * 4)
        assert load(column(path)).scores == expected


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_column(responses, tmp_path, suffix):
    path = write(tmp_path / f"scores{suffix}")
    np.testing.assert_array_equal(score(column(path), responses), [[0.5, -1], [2, 4]])
    np.testing.assert_array_equal(score(column(path, "lower"), responses), [[-0.5, 1], [-2, -4]])


BAD_COLUMNS = {
    "no column toxicity; the columns are": {"toxicity": None},
    "no column prompt_id; the columns are": {"prompt_id": None},
    "row 2 holds 'b' in column toxicity, not a number": {"toxicity": ["1", "b", "c", "d"]},
    "row 2 has no whole number in column response": {"response": [0, 0.5, 0, 1]},
    "column response holds list<": {"response": [[{"role": "assistant", "content": "Hi"}]] * 4},
    "column response holds timestamp": {"response": pa.array(range(4), pa.timestamp("us"))},
    "column toxicity holds list<": {"toxicity": [[1.0]] * 4},
    "column toxicity holds timestamp[us], not numbers; convert it": {
        "toxicity": pa.array(range(4), pa.timestamp("us"))
    },
    "row 3 has no prompt_id": {"prompt_id": ["007", "007", None, "b"]},
    "row 2 gives a response a second score": {"response": [0, 0, 0, 1]},
    "lacks 1 of 4 scores, the first that of prompt 'b' response 1": {"response": [0, 1, 0, 2]},
}


@pytest.mark.parametrize("said", BAD_COLUMNS)
def test_bad_column(said, responses, tmp_path):
    assert said in message(column(write(tmp_path / "scores.parquet", **BAD_COLUMNS[said])), responses)


def test_column_file_that_cannot_be_read(tmp_path):
    assert "no such file" in message(column(str(tmp_path / "no.parquet")))
    for name, said in (
        ("scores.xlsx", "name it .parquet, .csv, .tsv"),
        ("scores.npz", "name it .parquet, .csv, .tsv"),
        ("bad.parquet", "not a readable parquet table"),
        ("bad.jsonl", "line 1 is not JSON"),
    ):
        (tmp_path / name).write_text('{"a": ')
        assert said in message(column(str(tmp_path / name)))


def test_scores_that_are_not_finite_name_scorer_and_rows(responses, tmp_path):
    path = write(tmp_path / "scores.parquet", toxicity=[1.0, float("nan"), None, float("inf")])
    with pytest.raises(InputError) as error:
        check_finite(score(column(path), responses), responses, KEY)
    text = str(error.value)
    assert text.startswith(
        f"{KEY}: 3 scores are NaN or infinite (prompt '007' response 1, prompt 'b' response 0"
    )
    check_finite(np.zeros((2, 2)), responses, KEY)


def function(name: str, better: str = "higher", **more) -> dict:
    return {"kind": "function", "function": name, "better": better, **more}


@pytest.fixture
def user_module(monkeypatch):
    """A module such as a user's own, importable for the time of the test."""
    module = SimpleNamespace(
        length=lambda prompts, texts: [len(p) + len(t) for p, t in zip(prompts, texts, strict=True)],
        short=lambda prompts, texts: [1.0],
        words=lambda prompts, texts: ["x"] * len(texts),
        ragged=lambda prompts, texts: [[1], [1, 2], [3], [4]][: len(texts)],
        constant=3,
    )
    monkeypatch.setitem(sys.modules, "users_scores", module)


def test_function(user_module, responses):
    expected = [[5 + len(TEXTS[0][0]), 5 + len(TEXTS[0][1])], [7 + len(TEXTS[1][0]), 7 + len(TEXTS[1][1])]]
    np.testing.assert_array_equal(score(function("users_scores:length"), responses), expected)
    np.testing.assert_array_equal(
        score(function("users_scores:length", "lower"), responses), -np.array(expected)
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("users_scores", "write package.module:name"),
        (":length", "write package.module:name"),
        ("users_scores:", "write package.module:name"),
        ("no_such_module:f", "cannot be imported"),
        ("users_scores:none", "cannot be imported"),
        ("users_scores:constant", "is not a function"),
        ("users_scores:short", "return one number a response"),
        ("users_scores:words", "return one number a response"),
        ("users_scores:ragged", "return one number a response"),
    ],
)
def test_bad_function(user_module, responses, name, said):
    assert said in message(function(name), responses)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_words", r"raised IndexError: list index out of range (TOY, line LINE: return [len(response"),
        ("one_list", "called with lists of prompts and responses, raised TypeError: one_list() takes 1 pos"),
        ("nothing", "returned None, of shape () and type object, for 4 responses"),
    ],
)
def test_fault_of_a_function_names_it_and_its_line(responses, name, said):
    """What a user's function raises is no fault of the program's, which launchers would start again."""
    lines = Path(toy_scorers.__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "split()[99]" in text)
    found = message(function(f"tests.builders.toy_scorers:{name}"), responses)
    assert found.startswith(f"{KEY}: tests.builders.toy_scorers:{name}")
    assert said.replace("TOY", toy_scorers.__file__).replace("LINE", str(line)) in found


def test_memory_that_a_function_exhausts_keeps_its_status():
    """XLA tells it as a RuntimeError; the command has a line and a status for it."""
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"), users_code("a function"):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")


def test_a_module_that_raises_while_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "users_faulty.py").write_text("SCALE = 1 / 0\n")
    (tmp_path / "users_unfinished.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = message(function("users_faulty:f"))
    assert "importing users_faulty raised ZeroDivisionError" in found and "line 1: SCALE = 1 / 0" in found
    assert "raised SyntaxError: invalid syntax" in message(function("users_unfinished:f"))


def test_a_function_is_tried_before_there_are_responses(responses):
    prompts = responses.prompts.prompts
    load(function("tests.builders.toy_scorers:vowels")).expect(prompts, 4)
    for name, said in (("no_words", "raised IndexError"), ("undefined", "returned [0.0, nan] for the resp")):
        with pytest.raises(InputError) as error:
            load(function(f"tests.builders.toy_scorers:{name}")).expect(prompts, 4)
        assert said in str(error.value)


def test_function_probe(user_module):
    probe = {"prompt": "", "better": "longer", "worse": "short"}
    load(function("users_scores:length", probe=probe))
    assert "scores -6 and the worse one -5" in message(function("users_scores:length", "lower", probe=probe))


def test_rows_of_no_response_are_counted(responses, tmp_path, capsys):
    more = {"prompt_id": ["007", "007", "b", "b", "c"], "response": [0, 1, 0, 1, 0]}
    path = write(tmp_path / "scores.parquet", **more, toxicity=[1.0, 2.0, 3.0, 4.0, 9.0])
    check_coverage("score", {"safe": (KEY, load(column(path)))}, responses.prompts.prompts, 2)
    assert (
        capsys.readouterr().out == f"score: safe: 1 rows of {path} belong to no sampled response; not used\n"
    )
