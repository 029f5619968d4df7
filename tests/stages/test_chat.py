"""The chat: the run's own two policies, drawn and scored as the evaluation does, and what is refused."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from cann_jax import chat
from cann_jax.config.run import RewardConfig
from cann_jax.data.prompts import read_prompts
from cann_jax.files.atomic import read_table
from cann_jax.files.errors import InputError
from cann_jax.reporting.chat import Policies, aligned_run, answer_lines, converse
from cann_jax.reporting.chat.panels import WIDE, print_answers
from cann_jax.reporting.chat.policies import Answer
from cann_jax.run.outputs import ALIGNED, REFERENCE
from cann_jax.run.policies import answer
from cann_jax.run.prompts import encoded
from cann_jax.runtime.mesh import alone
from cann_jax.scorers.column import ColumnScorer
from cann_jax.stages.evaluate import HELDOUT_SEED
from tests.builders import ROOT
from tests.builders.models import save_tiny


@pytest.fixture(scope="module")
def policies(finished):
    with pytest.MonkeyPatch.context() as patch, alone():
        patch.chdir(ROOT)
        yield Policies(aligned_run(str(finished / "runs/tiny")))


@pytest.mark.parametrize("name", [REFERENCE, ALIGNED])
def test_a_policy_answers_as_it_did_when_it_was_evaluated(policies, finished, name):
    table = read_table(finished / f"runs/tiny/evaluate/{name}.parquet")
    row = table.slice(0, 1).to_pylist()[0]
    prompt = read_prompts(str(finished / "heldout.jsonl"))[0]
    run, seed = policies.run, policies.run.config.seed + HELDOUT_SEED
    found = answer(run, policies.scorers, policies.models[name], encoded(run, [prompt]), seed)
    assert found.responses.texts[0][0] == row["text"]
    assert found.responses.logps[0, 0] == pytest.approx(row["logp"], abs=1e-5)
    assert found.reference_logps[0, 0] == pytest.approx(row["reference_logp"], abs=1e-5)
    shown = policies.answers(dict.fromkeys((REFERENCE, ALIGNED), prompt), seed)[name]
    assert shown.scores == pytest.approx({score: row[score] for score in policies.scorers}, abs=1e-5)
    assert shown.text == row["text"] and shown.tokens == row["tokens"]


def test_the_aligned_model_has_moved_and_shares_the_weights_of_the_reference(policies, finished):
    table = read_table(finished / "runs/tiny/evaluate/aligned.parquet")
    moved = abs(table["logp"].to_numpy() - table["reference_logp"].to_numpy())
    assert moved.max() > 1e-3  # or the test above would pass without the adapter
    own, other = (
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(model.weights)}
        for model in (policies.models[REFERENCE], policies.models[ALIGNED])
    )
    assert own < other


def test_a_conversation(policies, capsys):
    """Replies are context, each policy's own; after a reset the same prompt has the same answers."""
    typed = ["Hello there", "", "And then?", "/again", "/agian", "/reset", "Hello there", "x" * 4000, "/quit"]
    lines = iter(typed)
    converse(policies, 5, read=lambda _: next(lines))
    out = capsys.readouterr().out
    tables = [_cells(part) for part in out.split("┏")[1:]]
    first, second, again, anew = (cells[0] for cells in tables)
    assert first == anew and second != first and again != second
    assert "\nseed 6\n" in out and "error: /agian is no command; did you mean /again?" in out
    assert out.count("error: prompt 'chat' has ") == 1 and "each prompt stands alone" not in out.lower()
    assert "tiny: temperature 1, at most 8 tokens, seed 5; the trained step at scale 1.000\n" in out


def _cells(table: str) -> list[list[str]]:
    """The cells of the first row below the head, whatever its lines."""
    rows = [line.split("│")[1:-1] for line in table.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_end_of_input_ends_a_conversation(policies, capsys):
    def read(_: str) -> str:
        raise EOFError

    converse(policies, 0, read)
    assert "/again, /reset, /help, /quit" in capsys.readouterr().out


def test_a_pipe_and_a_single_prompt_give_the_same_answer(finished, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    folder = str(finished / "runs/tiny")
    chat.main([folder, "--prompt", "Tell me", "--seed", "3"])
    single = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Explain\n\n  Tell me \n")))
    chat.main([folder, "--seed", "3"])
    piped = capsys.readouterr().out
    assert single.partition("┏")[2] == piped.rpartition("┏")[2] and piped.count("┏") == 2
    assert "\n> Tell me\n" in piped and "vowels" in single and "relevance" not in single  # the reward's kind


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([b"\n", b" \n"], "standard input holds no prompt"),
        ([b"Hello\n", b"\xff\n"], "standard input, line 2: the prompt is not UTF-8"),
        ([b"y" * 4000], "standard input, line 1: prompt 'chat' has "),
    ],
)
def test_a_pipe_of_wrong_prompts(policies, lines, problem):
    with pytest.raises(InputError, match=problem):
        answer_lines(policies, lines, 0)


def test_the_mark_that_windows_begins_a_file_with_is_no_part_of_a_prompt(monkeypatch):
    asked = []
    policies = SimpleNamespace(answers=lambda prompts, seed: asked.append(prompts[REFERENCE].text))
    for name in ("print_answers", "_print_settings"):
        monkeypatch.setattr(f"cann_jax.reporting.chat.console.{name}", lambda *_: None)
    answer_lines(policies, [b"\xef\xbb\xbfTell me\n", b"More\n"], 0)
    assert asked == ["Tell me", "More"]


def test_a_table_of_scores_cannot_score_an_answer(policies, capsys):
    config = policies.run.config
    column = RewardConfig(ColumnScorer(path="scores.csv", column="r", better="higher"))
    policies.run.config, scorers = replace(config, reward=column), policies.scorers
    try:
        policies.scorers = {name: scorer for name, scorer in scorers.items() if name != "reward"}
        answer_lines(policies, [b"Hello"], 0)
    finally:
        policies.run.config, policies.scorers = config, scorers
    out = capsys.readouterr().out
    assert "reward: not scored: its scores are a table of the training samples\n" in out
    assert "vowels" in out and out.count("reward") == 1


def test_answers_stand_side_by_side_only_where_there_is_room():
    answers = {
        REFERENCE: Answer("one\x1b[31m", 4, True, False, {"safe": 0.5, "reward": 1.0}),
        ALIGNED: Answer("two", 8, False, True, {"safe": 0.75, "reward": 1.0}),
    }
    shown = {}
    for width in (WIDE, WIDE - 1):
        out = io.StringIO()
        print_answers(Console(file=out, width=width), answers)
        shown[width] = out.getvalue()
        assert max(map(len, shown[width].splitlines())) == width
        assert "\x1b" not in shown[width] and "one�[31m" in shown[width]
        assert "safe    0.750 (+0.250)" in shown[width] and "reward  1.000 (+0.000)" in shown[width]
        assert (
            "8 tokens, cut off at the limit" in shown[width]
            and "prompt too long, cut on the left" in shown[width]
        )
    assert shown[WIDE].count("┏") == 1 and shown[WIDE - 1].count("┏") == 2


def _untrained(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["evaluate"]["policy"] = "reference"
    (folder / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "evaluate")


def _unfinished(folder, tmp_path):
    (folder / "align/manifest.json").unlink()


def _cut_off(folder, tmp_path):
    shutil.rmtree(folder / "align/weights")


def _other_model(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["path"] = str(save_tiny(tmp_path / "twin", seed=1))
    (folder / "config.json").write_text(json.dumps(config))


def _older(folder, tmp_path):
    path = folder / "align/manifest.json"
    path.write_text(re.sub('"layout": [0-9]+', '"layout": 3', path.read_text()))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_untrained, "trained no model .evaluate.policy is reference"),
        (_unfinished, "stage 'align' has not ended"),
        (_cut_off, "stage 'align' has lost its weights; put them back"),
        (_other_model, "has another model than the one that was trained from"),
        (
            _older,
            "made by an older cann_jax .its files are of version 3, this .*; use that version",
        ),
        (shutil.rmtree, "is not a run's folder"),
    ],
    ids=["untrained", "unfinished", "cut off", "other model", "older", "nothing"],
)
def test_a_folder_that_cannot_answer_is_one_line(copy, tmp_path, damage, problem):
    folder = copy / "runs/tiny"
    damage(folder, *([] if damage is shutil.rmtree else [tmp_path]))
    with pytest.raises(InputError, match=problem) as caught:
        chat.main([str(folder), "--prompt", "Hello"])
    assert "\n" not in str(caught.value)
