"""Each mistake of a user: one line that says what is wrong and how to mend it, and no traceback."""

import json
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cann_jax import train
from cann_jax.command_line.errors import run_command
from cann_jax.files.errors import InfeasibleError
from cann_jax.runtime import host_memory
from tests.builders import ROOT
from tests.builders.runs import run_process, write_config


@pytest.fixture
def refused(tmp_path, tiny_folder, monkeypatch, capsys):
    """Run the command in this process; returns its one line of error."""
    monkeypatch.chdir(ROOT)

    def refused(*flags: str, status: int = 2, config: str | None = None) -> str:
        config = config or write_config(tmp_path, tiny_folder)
        monkeypatch.setattr(sys, "argv", ["train", "--config", config, *flags])
        assert run_command(train.main) == status
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return refused


def test_the_process_itself_says_one_line_and_no_traceback(tmp_path, tiny_folder):
    ended = run_process(write_config(tmp_path, tiny_folder), "--dual.bet", "1")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: command line: dual.bet is not a key; did you mean dual.beta?")
    assert ended.stderr.count("\n") == 1


def test_model_missing(refused):
    assert "neither a folder nor a .gguf file" in refused("--model.path", "nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 9), "truncated or corrupt"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "'gpt2' is not supported"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_model_corrupt_or_of_another_kind(refused, tiny_folder, tmp_path, change, message):
    folder = tmp_path / "model"
    subprocess.run(["cp", "-r", str(tiny_folder), str(folder)], check=True)
    change(folder)
    assert message in refused("--model.path", str(folder))


@pytest.mark.parametrize(
    "text, flags, message",
    [
        ("", [], "has no prompts"),
        ('{"prompt": "a"}\n{"prompt": \n', [], "line 2: invalid JSON"),
        ('{"text": "a"}\n', [], "line 1: no key 'prompt'; the keys are text"),
        (json.dumps({"prompt": "word " * 99}), [], "set prompts.on_overlong to drop"),
        (json.dumps({"prompt": "word " * 99}), ["--prompts.on_overlong", "drop"], "raise prompts.max_tokens"),
    ],
)
def test_prompts(refused, tmp_path, text, flags, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    for dry in ([], ["--dry_run"]):
        assert message in refused("--prompts.train", str(path), *flags, *dry)


def test_a_layer_that_the_model_does_not_have(refused, tmp_path):
    for flags in ([], ["--dry_run"]):
        message = refused("--sample.feature_layers", "[2, 9]", *flags)
        assert "sample.feature_layers: 9 is no layer of the model, which has 3; use numbers from 1" in message
    assert not (tmp_path / "runs/tiny/sample").exists()


def test_scores_that_prefer_nothing(tmp_path, tiny_folder, capsys):
    """Scoring warns of them; the dual, which knows the margins, refuses what they cannot meet."""
    scorer = "{{kind: function, function: tests.builders.toy_scorers:{}, better: higher}}"
    config = write_config(tmp_path, tiny_folder)
    given = (
        "--constraints.vowels.scorer",
        scorer.format("constant"),
        "--reward.scorer",
        scorer.format("of_prompt"),
    )
    with pytest.raises(InfeasibleError, match="vowels never differs between the responses to a prompt"):
        train.main(["--config", config, "--stages", "sample,score,dual", *given])
    said = capsys.readouterr().out
    assert "score: ! vowels is 1 for all 48 responses, and prefers none; check the scorer\n" in said
    assert "score: ! reward is the same for all responses of a prompt, and prefers none; check " in said


def test_nan_scores_name_scorer_and_rows(refused):
    flags = ("--constraints.vowels.scorer.function", "tests.builders.toy_scorers:broken")
    message = refused(*flags)
    assert "constraints.vowels.scorer: 3 scores are NaN or infinite (prompt" in message or (
        "constraints.vowels.scorer: 1 scores are NaN or infinite (prompt '1' response 1)" in message
    )


def test_table_of_another_shape(refused, tmp_path):
    path = tmp_path / "scores.parquet"
    rows = [(str(n), k, 0.5) for n in range(1, 13) for k in range(3)]  # the run draws 4 responses
    pq.write_table(
        pa.table(dict(zip(("prompt_id", "response", "r"), zip(*rows, strict=True), strict=True))), path
    )
    scorer = f"{{kind: column, path: {path}, column: r, better: higher}}"
    for flags in ([], ["--dry_run"]):
        assert "lacks 12 of 48 scores" in refused("--reward.scorer", scorer, *flags)


def test_identical_responses_everywhere(refused):
    flags = ("--sample.top_p", "1e-9", "--sample.allow_changed_reference", "true")
    assert "all responses of every prompt are identical" in refused(*flags)


def test_margin_out_of_reach_leaves_no_align_folder(refused, tmp_path):
    assert "out of reach" in refused("--constraints.vowels.margin", "5", status=4)
    assert not (tmp_path / "runs/tiny/align").exists()


def test_loss_not_finite_keeps_the_last_good_checkpoint(refused, tmp_path):
    message = refused("--align.optimizer.learning_rate", "1e30", "--align.checkpoint_every", "1")
    assert "the checkpoint after step 1 stays; lower align.optimizer.learning_rate" in message
    folder = tmp_path / "runs/tiny/align/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["1"]
    with ocp.CheckpointManager(folder) as manager:
        kept = manager.restore(1, args=ocp.args.StandardRestore())
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(kept))


def test_folders_that_no_run_made(refused, tmp_path):
    for place, present in (("runs/tiny", "thesis.txt"), ("runs/tiny/sample", "sample")):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "thesis.txt").write_text("years of work")
        assert f"did not make ({present})" in refused()
        assert (folder / "thesis.txt").read_text() == "years of work"
        (folder / "thesis.txt").unlink()
    assert not (tmp_path / "runs/tiny/sample/settings.json").exists()


@pytest.mark.disk("16k")
def test_disk_full_while_writing_a_shard(refused, small_disk):
    assert "disk full while writing" in refused("--run_dir", str(small_disk), status=3)
    assert not list(small_disk.rglob("*.partial")) and not list(small_disk.rglob("manifest.json"))


def test_more_responses_than_memory_holds(refused):
    """A million responses of 2,048 tokens: XLA would end the process as it runs, or Linux."""
    flags = ("--sample.responses", "1000000", "--sample.max_new_tokens", "2048")
    message = refused(*flags, status=3)
    assert "memory is exhausted (a program needs" in message and "GB are left)" in message
    assert "lower sample.prompts_per_batch from 4 to 1" in message


def test_a_training_step_that_outgrows_the_memory(refused, tmp_path, tiny_folder, monkeypatch):
    config = write_config(tmp_path, tiny_folder)
    train.main(["--config", config, "--stages", "sample,score,dual"])
    monkeypatch.setattr(host_memory, "available", lambda: 1)
    message = refused("--stages", "align", status=3, config=config)
    assert message.startswith("error: align: this machine's memory is exhausted (a program needs 0.")
    assert "GB are left); raise align.accumulation from 1 to 5" in message
