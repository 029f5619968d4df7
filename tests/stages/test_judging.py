"""The whole command on a finished run: its own responses, prompts of a file, and what is kept."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax import judge
from cann_jax.command_line.errors import run_command
from cann_jax.files.errors import InputError
from cann_jax.judging import cases
from cann_jax.run.outputs import read_responses_with_scores
from tests.builders.judge_server import completion, judge_server
from tests.builders.models import save_tiny
from tests.builders.secrets import told


def answer(text: str, _: int):
    if "A, B, or tie" in text:
        return completion("A")
    return completion("declines" if "answers or decline" in text else "safe")


@pytest.fixture
def asked(copy, monkeypatch):
    """Judge the copy of the finished run; returns the results and the number of requests."""
    run = copy / "runs/tiny"
    monkeypatch.setenv("OPENAI_API_KEY", "do-not-tell-5e1f")

    def asked(*flags, speak=answer):
        with judge_server(speak) as server:
            address = ["--judge.base_url", server.address, "--judge.model", "m"]
            try:
                judge.main([str(run), *address, *flags])
            finally:
                asked.requests = len(server.requests)
        return json.loads((run / "judge/results.json").read_text())

    asked.run = run
    return asked


def distinct(run, policy):
    """The run's responses, no two the same: its step may have changed none."""
    table = read_responses_with_scores(run, policy)
    texts = pa.array([f"{text} by {policy}" for text in table.column("text").to_pylist()])
    return table.set_column(table.column_names.index("text"), "text", texts)


def test_the_runs_own_responses(asked, capsys, monkeypatch):
    monkeypatch.setattr(cases, "read_responses_with_scores", distinct)
    found = asked("--prompts.responses", "2", "--confidence", "0.995")
    table = pq.read_table(asked.run / "judge/verdicts.parquet").to_pylist()
    assert len(table) == 3 * 24 and {row["status"] for row in table} == {"answered"}
    assert found["questions"]["helpfulness"]["ties"] == 12 == found["questions"]["safety"]["changed_by_order"]
    assert set(found["questions"]["unsafe"]["categories"]) == {"even", "odd"}
    lines = capsys.readouterr().out
    assert "helpfulness: 24 answers counted; excluded: none; 12 of 12 pairs changed by the order" in lines
    assert "intervals at 99.5%" in lines
    # It says "A" whatever is shown there, which reads as 50.0 %.
    warned = "warning: helpfulness: this judge goes by the order"
    assert warned in lines and warned in (asked.run / "report.html").read_text()
    assert "warning: unsafe" not in lines
    assert "judge" in (asked.run / "report.html").read_text() and not told(asked.run)
    for text in ("What m says", "unsafe: odd", "0, 12, 0"):
        assert text in (asked.run / "report.html").read_text()


def test_prompts_of_a_file_are_sampled_once(asked, copy, capsys):
    path, rows = copy / "own.jsonl", [{"prompt": f"Describe {n}", "set": "ab"[n % 2]} for n in range(4)]
    # A training prompt, written otherwise, twice.
    rows += [{"prompt": text, "set": "a"} for text in ("tell me  about 3.", "Tell me about 3!")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--prompts.path", str(path), "--refusal.set", "b", "--helpfulness.set", "a", "--safety", "null"]
    with pytest.raises(InputError, match="1 of 5 prompts are some that the run was trained or calibrated on"):
        asked(*flags)
    flags += ["--prompts.on_overlap", "drop"]
    with pytest.raises(
        InputError, match=r"helpfulness\.set is 'c', and no prompt is in it; the sets are a, b"
    ):
        asked(*flags[:5], "c", *flags[6:])
    assert asked.requests == 0
    found, left_out = asked(*flags), {"repeated": 1, "overlong": 0, "used by the run": 1}
    (shard,) = (asked.run / "judge").glob("responses-*/aligned-*.parquet")
    written = shard.stat().st_mtime_ns
    assert (found["prompts"], found["left_out"]) == (4, left_out)
    assert "prompts.path: 1 of 6 repeat another one; each counts once" in capsys.readouterr().out
    assert found["questions"]["refusal"]["reference"] | {"interval": 0} == {
        "rate": 1,
        "prompts": 2,
        "interval": 0,
    }
    assert asked(*flags)["questions"] == found["questions"]
    assert shard.stat().st_mtime_ns == written


def test_another_base_than_the_one_that_was_trained_from(asked, copy, tmp_path):
    path = asked.run / "config.json"
    config = json.loads(path.read_text())
    config["model"]["path"] = str(save_tiny(tmp_path / "twin", seed=1))
    path.write_text(json.dumps(config))
    (copy / "own.jsonl").write_text('{"prompt": "Describe"}\n')
    with pytest.raises(InputError, match="has another model than the one that was trained from"):
        asked("--prompts.path", str(copy / "own.jsonl"))
    assert asked.requests == 0


MISTAKES = {
    "no model": ([], "judge.model is missing; name a model at judge.base_url, or give files by judge.path"),
    "two judges": (["--judge.model", "m", "--judge.path", "p"], "judge.path is set beside judge.model"),
    "no address": (["--judge.model", "m", "--judge.base_url", "ftp://x"], "must be text: an address of http"),
    "a key in it": (["--judge.model", "m", "--judge.base_url", "http://a:b@x"], "without user, password or"),
    "no prompts": (["--judge.model", "m", "--prompts.path", "none.jsonl"], "none.jsonl cannot be used"),
    "a set of nothing": (
        ["--judge.model", "m", "--unsafe.set", "a"],
        "unsafe.set is 'a', and held-out prompts",
    ),
    "too many": (
        ["--judge.model", "m", "--prompts.responses", "3"],
        "the run was evaluated on 2; ask for fewer",
    ),
    "no template": (
        ["--judge.model", "m", "--safety.template", "x"],
        "there are helpful_pair_v1, safe_pair_v1",
    ),
    "one of another kind": (
        ["--judge.model", "m", "--unsafe.template", "safe_pair_v1"],
        "no template 'safe_pair",
    ),
}


@pytest.mark.parametrize("flags, problem", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(copy, monkeypatch, capsys, flags, problem):
    monkeypatch.setattr("sys.argv", ["judge", str(copy / "runs/tiny"), *flags])
    assert run_command(judge.main) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and error.startswith("error: ")


def test_a_run_that_was_not_evaluated(asked):
    (asked.run / "evaluate/manifest.json").unlink()
    with pytest.raises(InputError, match="has not been evaluated; start train again"):
        asked()
    assert asked.requests == 0
