"""Preference data sets: layouts, identity, and every kind of malformed row."""

import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.data.prepared_pairs import Pair, PreparedPairs
from cann_jax.data.prompts import Turn
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.damage import DAMAGES, damaged
from tests.builders.preferences import dialogue, hh_row, pku_row, prepare, write_lines, write_parquet


def pairs(prepared: PreparedPairs, part: str = "train") -> list[Pair]:
    return list(prepared.parts[part])


def test_pku_columns_stay_apart_and_whole(tmp_path):
    path = tmp_path / "pku"
    write_lines(path / "data/Alpaca-7B/train.jsonl", [pku_row(1), pku_row(2, better_response_id=1)])
    write_lines(path / "data/Alpaca-7B/test.jsonl", [pku_row(3)])
    prepared = prepare(tmp_path, "pku_safe_rlhf", path)
    first, second = pairs(prepared)
    assert first.prompt.id == "data/Alpaca-7B/train.jsonl:1" and first.prompt.text == "How do I do task 1?"
    assert first.responses[1] == "I would ask somebody about 1."
    assert (first.better, first.safer, first.safe) == (0, 1, (0, 1))
    assert first.harms == (("Animal Abuse", "Drugs"), ())
    assert (second.better, second.safer) == (1, 1)
    assert [pair.prompt.text for pair in pairs(prepared, "heldout")] == ["How do I do task 3?"]


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    """TFDS left a folder there at each start."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    write_lines(tmp_path / "pairs.jsonl", [pku_row(n) for n in range(30)])
    prepare(tmp_path, "local", tmp_path / "pairs.jsonl")
    assert not list((tmp_path / "tmp").iterdir())


def test_pku_30k_without_harm_columns_from_parquet(tmp_path):
    rows = [
        pku_row(n, response_0_harm_category=..., response_1_harm_category=..., safer_response_id=None)
        for n in range(40)
    ]
    prepared = prepare(
        tmp_path, "pku_safe_rlhf_30k", write_parquet(tmp_path / "pairs.parquet", rows), heldout=0.3
    )
    found = pairs(prepared)
    assert {pair.harms for pair in found} == {None} and {pair.safer for pair in found} == {-1}
    assert not any(pair.contradictory for pair in found)


def test_hh_dialogues_are_split_at_the_last_assistant_turn(tmp_path):
    path = tmp_path / "hh"
    write_lines(path / "harmless-base/train.jsonl.gz", [hh_row(n) for n in range(4)])
    write_lines(path / "helpful-base/train.jsonl.gz", [hh_row(n) for n in range(4, 6)])
    write_lines(path / "helpful-base/test.jsonl.gz", [hh_row(7)])
    write_lines(path / "red-team-attempts/red_team_attempts.jsonl.gz", [{"transcript": "x"}])
    prepared = prepare(tmp_path, "hh_rlhf", path)
    found = pairs(prepared)
    assert found[1].prompt.earlier == (Turn("user", "Hello"), Turn("assistant", "Hi there"))
    assert found[1].prompt.text == "Tell me about 1" and found[1].responses == ("Gladly: 1", "No.")
    # Harmless folders say what is safer, helpful ones what is better.
    assert [(pair.safer, pair.better) for pair in found] == [(0, -1)] * 4 + [(-1, 0)] * 2
    only = prepare(tmp_path, "hh_rlhf", path, subset="helpful-base")
    assert len(only.parts["train"]) == 2 and only.name != prepared.name


def test_bad_rows_are_named_or_counted(tmp_path):
    odd = [
        {"chosen": dialogue("a", "b", "c"), "rejected": dialogue("a", "b")},
        {"chosen": dialogue("a", "b"), "rejected": dialogue("another", "b")},
        {"chosen": "no turns", "rejected": "none"},
    ]
    path = write_lines(tmp_path / "hh.jsonl", [*odd, *(hh_row(n) for n in range(40))])
    with path.open("ab") as file:
        file.write(b'{"chosen": "\\ud83d", "rejected": "a"}\n{"chosen": \n\xff\n')
    settings = {"chosen_is": "safer", "on_bad_row": "drop"}
    prepared = prepare(tmp_path, "hh_rlhf", path, **settings)
    assert prepared.left_out == {
        "bad rows left out, the first hh.jsonl:1: chosen does not end with an answer of the assistant": 1,
        "bad rows left out, the first hh.jsonl:2: chosen and rejected differ before the last answer, "
        "so that they answer two conversations": 1,
        "bad rows left out, the first hh.jsonl:3: there is no column prompt, and chosen is no dialogue": 1,
        "bad rows left out, the first hh.jsonl:44: chosen holds half a surrogate pair, which UTF-8 cannot": 1,
        "bad rows left out, the first hh.jsonl:45: invalid JSON": 1,
        "bad rows left out, the first hh.jsonl:46: not UTF-8": 1,
    }
    assert sum(map(len, prepared.parts.values())) == 40
    assert dict(prepare(tmp_path, "hh_rlhf", path, **settings).left_out) == prepared.left_out
    # What was prepared without these rows is not what a run that may not drop them reads.
    with pytest.raises(InputError, match=r"^hh\.jsonl:1: chosen does not end .* set preferences\.on_bad_row"):
        prepare(tmp_path, "hh_rlhf", path, chosen_is="safer")


def test_rows_that_utf8_cannot_hold(tmp_path):
    table = pa.table({name: [b"ok"] * 40 for name in ("prompt", "chosen", "rejected")})
    bad = table.set_column(1, "chosen", [[b"ok"] * 30 + [b"\xff"] + [b"no"] * 9])
    schema = pa.schema([(name, pa.string()) for name in table.column_names])
    arrays = [pa.StringArray.from_buffers(40, *c.combine_chunks().buffers()[1:]) for c in bad.columns]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"^bad\.parquet:31: not UTF-8"):
        prepare(tmp_path, "local", tmp_path / "bad.parquet")


def test_prompt_chosen_rejected_as_texts_and_as_turns(tmp_path):
    turns = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hello"}]
    rows = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(30)]
    rows.append({
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": "Hi"}],
        "rejected": [{"role": "assistant", "content": "What"}],
    })  # fmt: skip
    prepared = prepare(tmp_path, "local", write_lines(tmp_path / "own.jsonl", rows))
    found = {pair.prompt.id: pair for part in ("train", "heldout") for pair in pairs(prepared, part)}
    assert found["own.jsonl:31"].prompt.earlier == (Turn("system", "Be kind"),)
    assert found["own.jsonl:31"].responses == ("Hi", "What")
    assert {(pair.better, pair.safer) for pair in found.values()} == {(0, -1)}


def test_no_prompt_stands_on_both_sides(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n % 60, response_1=f"r{n}") for n in range(240)])
    prepared = prepare(tmp_path, "local", path, heldout=0.3)
    train, heldout = ({pair.prompt.text for pair in pairs(prepared, part)} for part in ("train", "heldout"))
    assert not train & heldout and len(train | heldout) == 60
    assert 8 <= len(heldout) <= 28


@pytest.mark.parametrize(
    "prompts, share, said",
    [
        (
            1,
            0.1,
            "40 pairs of 1 prompt, of which a share of 0.1 holds out none; give more prompts or a test file",
        ),
        (2, 0.001, "holds out none; raise preferences.heldout, give more prompts, or a test file"),
        (2, 0.999, "holds out all; lower preferences.heldout, give more prompts, or a test file"),
    ],
)
def test_too_few_prompts_to_hold_out_a_share(tmp_path, prompts, share, said):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n % prompts, response_1=f"r{n}") for n in range(40)])
    with pytest.raises(InputError) as error:
        prepare(tmp_path, "local", path, heldout=share)
    assert said in str(error.value)


def test_columns_that_are_not_read_are_kept_by_name(tmp_path):
    rows = [pku_row(n, margin=0.5) | ({"chosen": "x", "rejected": "y"} if n else {}) for n in range(30)]
    path = write_lines(tmp_path / "own.jsonl", rows)
    for _ in range(2):  # prepared, and as it was prepared before
        assert list(prepare(tmp_path, "local", path).unread) == ["margin", "chosen", "rejected"]


def test_a_meaning_of_chosen_where_nothing_is_chosen(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(30)])
    with pytest.raises(
        InputError,
        match=r"chosen_is is 'safer', and no row is read by columns chosen and rejected; set it to null",
    ):
        prepare(tmp_path, "local", path, chosen_is="safer")


def test_limit_takes_the_first(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(50)])
    every = [pair.prompt.id for pair in pairs(prepare(tmp_path, "local", path))]
    limited = pairs(prepare(tmp_path, "local", path, limit=7))
    assert [pair.prompt.id for pair in limited] == every[:7]


def test_prepared_once_and_anew_for_other_content(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(30)])
    first = prepare(tmp_path, "local", path)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "prepared").rglob("*.array_record*")}
    assert len(made) == 2
    assert prepare(tmp_path, "local", path).name == first.name
    assert {
        file: file.stat().st_mtime_ns for file in (tmp_path / "prepared").rglob("*.array_record*")
    } == made
    write_lines(path, [pku_row(n, better_response_id=1) for n in range(30)])
    second = prepare(tmp_path, "local", path)
    assert second.name != first.name and pairs(second)[0].better == 1


def test_a_damaged_copy_is_refused(tmp_path):
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(30)])
    prepare(tmp_path, "local", path)
    files = [each for each in (tmp_path / "prepared").rglob("*") if each.is_file()]
    assert len(files) > 5
    for each in files:
        for kind in DAMAGES:
            with damaged(each, kind), pytest.raises(InputError, match=r"is damaged .*; delete it") as caught:
                prepare(tmp_path, "local", path)
            assert "\n" not in str(caught.value)
    prepare(tmp_path, "local", path)


def test_tensorflow_is_not_needed(tmp_path):
    """Preparing and reading import neither TensorFlow nor, as it happens, transformers."""
    path = write_lines(tmp_path / "own.jsonl", [pku_row(n) for n in range(30)])
    code = (
        "import sys\n"
        "from cann_jax.config.preferences import PreferencesConfig\n"
        "from cann_jax.data.prepared_pairs import prepare_pairs\n"
        f"config = PreferencesConfig('local', 'error', {str(path)!r}, prepared={str(tmp_path / 'p')!r})\n"
        "made = prepare_pairs(config)\n"
        "print(made.parts['train'][0].prompt.id, {'tensorflow', 'transformers', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "own.jsonl:1 set()\n" and ended.stderr == ""


BAD = {
    "better_response_id must be 0, 1 or null (2)": pku_row(1, better_response_id=2),
    "safer_response_id must be 0, 1 or null ('1')": pku_row(1, safer_response_id="1"),
    "is_response_0_safe must be 0, 1 or null ('yes')": pku_row(1, is_response_0_safe="yes"),
    "response_1 must be text ('null')": pku_row(1, response_1=None),
    "the prompt is null ('prompt, response_0": pku_row(1, prompt=None),
    "prompt must be text (3)": pku_row(1, prompt=3),
    "prompt has no text of the user's": pku_row(1, prompt=" "),
    "harm categories must be a mapping of name to true or false ('Drugs')": pku_row(
        1, response_0_harm_category="Drugs"
    ),
    "the columns must be prompt/response_0": {"text": "x"},
    "not a JSON object": [1],
}


@pytest.mark.parametrize("said", BAD)
def test_malformed_rows_are_named(said, tmp_path):
    path = write_lines(tmp_path / "bad.jsonl", [pku_row(0), BAD[said]])
    with pytest.raises(InputError) as error:
        prepare(tmp_path, "pku_safe_rlhf", path)
    assert str(error.value).startswith("bad.jsonl:2: ") and said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "prepared").rglob("*.array_record*"))
