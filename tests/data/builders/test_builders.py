"""Preference data sets: layouts, parts, identity, downloads, and every kind of malformed row."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.builders.files import by_part
from cann_jax.data.builders.records import BadRow, record
from cann_jax.data.prepared_pairs import Pair, PreparedPairs, prepare_pairs
from cann_jax.data.prompts import Turn
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.preferences import dialogue, hh_row, pku_row, write_lines, write_parquet


def prepare(tmp_path: Path, dataset: str, path: Path, **changes) -> PreparedPairs:
    settings = PreferencesConfig(dataset, "error", str(path), prepared=str(tmp_path / "prepared"), **changes)
    return prepare_pairs(settings)


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
        "bad rows left out, the first hh.jsonl:1: chosen does not end with an answer of the assistant": 2,
        "bad rows left out, the first hh.jsonl:2: chosen and rejected differ before the last answer, "
        "so that they answer two conversations": 1,
        "bad rows left out, the first hh.jsonl:44: chosen holds half a surrogate pair, which UTF-8 cannot": 1,
        "bad rows left out, the first hh.jsonl:45: invalid JSON": 1,
        "bad rows left out, the first hh.jsonl:46: not UTF-8": 1,
    }
    assert sum(map(len, prepared.parts.values())) == 40
    assert dict(prepare(tmp_path, "hh_rlhf", path, **settings).left_out) == prepared.left_out
    # What was prepared without these rows is not what a run that may not drop them reads.
    with pytest.raises(InputError, match=r"^hh\.jsonl:1: chosen does not end .* set preferences\.on_bad_row"):
        prepare(tmp_path, "hh_rlhf", path, chosen_is="safer")


U, A, SYSTEM = (
    lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system")
)
PAST = [U("Is soup a drink?"), A("It depends."), U("On what?")]
SAME = ["Is soup a drink?", "It depends.", "On what?"]
READ = {
    "whole conversations": ({"chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]}, SAME),
    "beside their prompt": ({"prompt": PAST, "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]}, SAME),
    "beside their first question": (
        {"prompt": "Is soup a drink?", "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]},
        SAME,
    ),
    "beside their last question": (
        {"prompt": "On what? ", "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]},
        SAME,
    ),
    "the rest of one": (
        {"prompt": PAST[:1], "chosen": [*PAST[1:], A("x")], "rejected": [*PAST[1:], A("y")]},
        SAME,
    ),
    "a system message before the prompt": (
        {
            "prompt": "Hi",
            "chosen": [SYSTEM("s"), U("Hi"), A("x")],
            "rejected": [SYSTEM("s"), U("Hi"), A("y")],
        },
        ["s", "Hi"],
    ),
    "one in the prompt alone": (
        {"prompt": [SYSTEM("s"), U("Hi")], "chosen": [U("Hi"), A("x")], "rejected": [A("y")]},
        ["s", "Hi"],
    ),
    "a dialogue as prompt": (
        {"prompt": dialogue(*SAME) + "\n\nAssistant:", "chosen": " x", "rejected": " y"},
        SAME,
    ),
    "dialogues beside their prompt": (
        {"prompt": SAME[0], "chosen": dialogue(*SAME, "x"), "rejected": dialogue(*SAME, "y")},
        SAME,
    ),
    "a text that mentions a speaker": (
        {"prompt": "Human: is that a role?", "chosen": "x", "rejected": "y"},
        ["Human: is that a role?"],
    ),
}


@pytest.mark.parametrize("row, turns", READ.values(), ids=READ)
def test_the_response_is_the_last_turn_and_the_rest_is_context(row, turns):
    found = record("x:1", row, "better")
    assert [turn["text"] for turn in found["turns"]] == turns and found["turns"][-1]["role"] == "user"
    assert [found[f"response_{i}"].strip() for i in (0, 1)] == ["x", "y"]


REFUSED = {
    "chosen does not end with an answer": {"chosen": PAST, "rejected": PAST},
    "rejected does not end with an answer": {"prompt": "Hi", "chosen": "x", "rejected": [U("Hi")]},
    "chosen ends with several messages of the assistant": {
        "prompt": "Hi",
        "chosen": [A("x"), A("z")],
        "rejected": [A("y")],
    },
    "differ before the last answer": {
        "chosen": [U("a"), A("b"), U("c"), A("x")],
        "rejected": [U("a"), A("other"), U("c"), A("y")],
    },
    "that does not hold the prompt": {
        "prompt": "Hi",
        "chosen": [U("Ho"), A("x")],
        "rejected": [U("Ho"), A("y")],
    },
    "has no text of the user's before the answer": {"prompt": [U(" ")], "chosen": "x", "rejected": "y"},
    "each role in chosen must be system, user or assistant ('tool')": {
        "prompt": "Hi",
        "chosen": [{"role": "tool", "content": "x"}],
        "rejected": [A("y")],
    },
    "must have a role and a content": {"chosen": [{"from": "human", "value": "a"}], "rejected": []},
    "content in chosen must be text": {"prompt": "a", "chosen": [A(["x"])], "rejected": "y"},
    "prompt holds half a surrogate pair": {"prompt": "a \ud83d", "chosen": "x", "rejected": "y"},
    "content in rejected holds half": {"prompt": "a", "chosen": "x", "rejected": [A("\udc00")]},
    "better_response_id must be 0 or absent": {
        "prompt": "a",
        "chosen": "x",
        "rejected": "y",
        "better_response_id": 1,
    },
}


@pytest.mark.parametrize("said", REFUSED)
def test_rows_that_hold_no_two_answers_to_one_conversation(said):
    with pytest.raises(BadRow) as error:
        record("x:1", REFUSED[said], "better")
    assert said in str(error.value) and "\n" not in str(error.value)


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
    "prompt must be text ('null')": pku_row(1, prompt=None),
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


def test_chosen_needs_a_meaning():
    with pytest.raises(InputError, match=r"set preferences\.chosen_is to better or safer"):
        record("x:1", hh_row(1), None)


def test_files_that_are_not_there_or_not_readable(tmp_path):
    with pytest.raises(InputError, match="nor a folder with one; check the spelling"):
        prepare(tmp_path, "local", tmp_path / "nothing.jsonl")
    for name, content in {"a.jsonl.gz": b"plain", "b.parquet": b"PAR1"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            prepare(tmp_path, "local", tmp_path / name)
    for name, content, said in (
        ("c", b"\xff\n", "not UTF-8"),
        ("d", b'{"prompt": \n', "invalid JSON"),
        ("f", b"[" * 99_999, "invalid JSON .'nested"),
    ):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=rf"^{name}\.jsonl:1: {said}"):
            prepare(tmp_path, "local", tmp_path / f"{name}.jsonl")
    (tmp_path / "bom.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b"".join(json.dumps(pku_row(n)).encode() + b"\r\n" for n in range(30))
    )
    assert sum(map(len, prepare(tmp_path, "local", tmp_path / "bom.jsonl").parts.values())) == 30
    write_lines(tmp_path / "e.jsonl", [hh_row(1)])
    with pytest.raises(InputError, match=r"no pair is left in the part '\w+' \(nothing\); give more data"):
        prepare(tmp_path, "local", tmp_path / "e.jsonl")


def test_parts_by_name():
    names = ["data/A/train.jsonl", "data/A/test.jsonl", "data/B/train.jsonl", "skip/x.jsonl"]
    assert by_part(names, "A") == {"train": ["data/A/train.jsonl"], "heldout": ["data/A/test.jsonl"]}
    assert by_part(["alpaca-7b/test/0000.parquet"], None)["train"] == ["alpaca-7b/test/0000.parquet"]
    with pytest.raises(InputError, match=r"no folder has that name; use one of: A, B, data$"):
        by_part(names, "C", excluded=("skip",))
    held = "val.jsonl dev-v2.parquet x/testset/0.jsonl a_validation.json testData.json held-out.json"
    train = "train.jsonl developers.jsonl values.jsonl contest.jsonl x/train-00000-of-1.parquet last/a.json"
    assert by_part([*held.split(), *train.split()], None) == {"train": train.split(), "heldout": held.split()}
    for both in ("train_eval.jsonl", "test/train.jsonl"):
        with pytest.raises(InputError, match=f"{both} is named as training and as held-out data at once"):
            by_part([both, "x.jsonl"], None)


def test_hidden_and_temporary_files_are_not_read(tmp_path):
    folder = tmp_path / "data"
    write_lines(folder / "pairs.jsonl", [pku_row(n) for n in range(3)])
    write_lines(folder / "dev.jsonl", [pku_row(n) for n in range(3, 5)])
    hidden = [
        ".ipynb_checkpoints/pairs-checkpoint.jsonl",
        "._pairs.jsonl",
        "_temporary/0/a.jsonl",
        "~$pairs.jsonl",
    ]
    for name in hidden:
        write_lines(folder / name, [pku_row(99)])
    prepared = prepare(tmp_path, "local", folder)
    assert prepared.files == {"train": ["pairs.jsonl"], "heldout": ["dev.jsonl"]}
    assert sorted(prepared.hidden) == sorted(hidden)
    assert [len(prepared.parts[part]) for part in ("train", "heldout")] == [3, 2]


@pytest.fixture
def hub(tmp_path):
    """A server that speaks the little of the Hub's protocol that is needed; yields its address."""
    repository, files = "PKU-Alignment/PKU-SafeRLHF-30K", tmp_path / "served"
    write_lines(files / "train.jsonl", [pku_row(n) for n in range(5)])
    write_lines(files / "test.jsonl", [pku_row(n) for n in range(5, 7)])
    listing = [
        {"type": "file", "path": n, "size": 1, "oid": "0"} for n in ("README.md", "test.jsonl", "train.jsonl")
    ]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            content = None
            if path == f"/api/datasets/{repository}/tree/main":
                content = json.dumps(listing).encode()
            if path.startswith(f"/datasets/{repository}/resolve/main/"):
                content = (files / path.rpartition("/")[2]).read_bytes()
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def download(address: str, tmp_path: Path, revision: str = "main") -> subprocess.CompletedProcess:
    code = (
        "from cann_jax.command_line.errors import run_command\n"
        "from cann_jax.config.preferences import PreferencesConfig\n"
        "from cann_jax.data.prepared_pairs import prepare_pairs\n"
        "def main(argv):\n"
        f"    where = dict(prepared={str(tmp_path / 'p')!r}, revision={revision!r})\n"
        "    made = prepare_pairs(PreferencesConfig('pku_safe_rlhf_30k', 'error', **where))\n"
        "    print({name: [pair.prompt.id for pair in part] for name, part in made.parts.items()})\n"
        "raise SystemExit(run_command(main))"
    )
    environment = {**os.environ, "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_download_from_the_hub(hub, tmp_path):
    ended = download(hub, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert eval(ended.stdout) == {
        "train": [f"train.jsonl:{n}" for n in range(1, 6)],
        "heldout": ["test.jsonl:1", "test.jsonl:2"],
    }


def test_hub_that_lacks_the_revision(hub, tmp_path):
    ended = download(hub, tmp_path, "nowhere")
    assert ended.returncode == 2
    assert "does not list PKU-Alignment/PKU-SafeRLHF-30K at 'nowhere'" in ended.stderr
    assert "give preferences.path a local copy" in ended.stderr and "Traceback" not in ended.stderr
