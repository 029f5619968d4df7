"""``python -m cann_jax.reward``: training, held-out judgement, export, and what torch makes of the export."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx

from cann_jax import reward
from cann_jax.command_line.run_options import parse_score_model
from cann_jax.files.errors import InputError
from cann_jax.models.export.score_model import LAYOUTS, export_score_model
from cann_jax.run.outputs import read_weights
from cann_jax.run.run import ScoreModelRun
from cann_jax.run.training import split
from cann_jax.stages import score_model
from cann_jax.stages.score_model import heldout_scores, initial_weights, score_data, score_objective
from tests.builders import ROOT
from tests.builders.preferences import telling_rows, write_lines
from tests.builders.processes import finish, start, start_together
from tests.builders.runs import write_score_model_config
from tests.builders.scorers import load_scorer
from tests.reporting.test_page import elements
from tests.stages.test_documented_files import documented_keys

PAST = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"})


@pytest.fixture
def train(tmp_path, tiny_folder, monkeypatch, capsys):
    """Train on 60 pairs that a tiny model can tell apart; returns what was printed."""
    monkeypatch.chdir(ROOT)
    path = write_score_model_config(tmp_path, tiny_folder)

    def train(*flags: str) -> str:
        reward.main(["--config", path, *flags])
        return capsys.readouterr().out

    return train


def folder(tmp_path):
    return tmp_path / "runs/judge/score_model"


def test_reward_model_is_learnt_judged_and_equal_in_transformers(train, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    said = train()
    results = json.loads((folder(tmp_path) / "results.json").read_text())
    share, (low, high) = (results["accuracy"][name] for name in ("accuracy", "interval"))
    assert share > 0.9 and low < share <= high + 1e-9
    assert results["calibration"]["log_loss"] < 0.5 and "held-out pairs ordered correctly" in said
    lines = (folder(tmp_path) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert (folder(tmp_path) / "reliability.png").stat().st_size > 0
    # The exported classifier orders and spaces the held-out pairs as the results say.
    model = AutoModelForSequenceClassification.from_pretrained(folder(tmp_path) / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder(tmp_path) / "model")
    assert model.config.num_labels == 1 and model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    losses = []
    for row in pq.read_table(tmp_path / "runs/judge/pairs/heldout.parquet").to_pylist():
        texts = [row["prompt_ids"] + row[f"response_ids_{i}"] for i in (0, 1)]
        with torch.no_grad():
            scores = [float(model(torch.tensor([ids])).logits[0, 0]) for ids in texts]
        learnt = (scores[0] - scores[1]) * (1 if row["better"] == 0 else -1)
        losses.append(np.log1p(np.exp(-learnt)))
    assert np.mean(losses) == pytest.approx(results["calibration"]["log_loss"], abs=1e-4)
    assert train().count("done already") == 2


def test_heldout_pairs_about_training_prompts_are_left_out(train, tmp_path, monkeypatch, capsys):
    """A source's own test split may repeat training prompts, on which no accuracy is one on new ones."""
    train("--epochs", "1", "--optimizer.warmup_steps", "1")
    run = ScoreModelRun(parse_score_model(["--config", str(tmp_path / "judge.yaml")])[0])
    own, read = score_data(run, "heldout"), score_model.read_pairs
    shared = np.arange(3)
    monkeypatch.setattr(
        score_model,
        "read_pairs",
        lambda run, part: read(run, "heldout").take(shared) if part == "train" else read(run, part),
    )
    found = score_model.heldout_data(run)
    assert len(found.safe) == len(own.safe) - 3 and len(found.responses.prompts) == len(found.safe)
    np.testing.assert_array_equal(found.preferred, own.preferred[3:])
    assert f"3 of {len(own.safe)} held-out pairs are about prompts trained on" in capsys.readouterr().out
    shared = np.arange(len(read(run, "heldout").safe))
    with pytest.raises(InputError, match=r"^no held-out pair has a prompt that is not trained on"):
        score_model.heldout_data(run)


def test_the_mesh_changes_nothing(train, tmp_path):
    """Eight devices of two processes, as 2×2×2."""
    short = ("--epochs", "1", "--lora", "null", "--optimizer.warmup_steps", "1")
    train(*short)
    mesh = ("--mesh.fsdp", "2", "--mesh.tensor", "2", "--name", "spread")
    command = ["-m", "cann_jax.reward", "--config", str(tmp_path / "judge.yaml"), *short, *mesh]
    finish(*start_together(command, 4))
    alone, spread = (tmp_path / "runs" / name / "score_model" for name in ("judge", "spread"))
    ours, theirs = (
        [json.loads(line)["loss"] for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (spread, alone)
    )
    assert len(ours) == 4 and abs(theirs[0] - theirs[-1]) > 1e-2
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    loss = [
        json.loads((each / "results.json").read_text())["calibration"]["log_loss"] for each in (spread, alone)
    ]
    assert loss[0] == pytest.approx(loss[1], abs=1e-4)
    assert (spread / "model/model.safetensors.index.json").exists()


def test_a_tensor_axis_that_does_not_fit(train, tmp_path):
    command = ["-m", "cann_jax.reward", "--config", str(tmp_path / "judge.yaml"), "--mesh.tensor", "4"]
    ((_, said),) = finish(start(command, 8), status=2)
    assert said == "error: mesh.tensor is 4 and the model's KV heads 2; use a divisor of 2 for mesh.tensor\n"


def test_cost_model_knows_zero_and_leaves_in_safe_rlhfs_layout(train, tmp_path):
    from safetensors.numpy import load_file

    cost = ("--objective", "cost", "--export", "safe_rlhf", "--lora", "null", "--epochs", "3")
    said = train(*cost, "--confidence", "0.995")
    results = json.loads((folder(tmp_path) / "results.json").read_text())
    assert results["accuracy"]["accuracy"] > 0.9 and results["sign"]["accuracy"] > 0.9
    assert "the cost's sign is right" in said and 'always "safe" has 50.0%' in said
    assert documented_keys("score_model/results.json", results) == results.keys()
    found = elements(tmp_path / "runs/judge")  # by the report command, which writes what the training wrote
    verdicts = [text.strip() for text in found.texts("p")[:2]]
    assert verdicts[0].endswith("held-out pairs in the order that people gave: better than chance")
    sign = 'responses on the right side of zero: better than always "safe", which has 50.0%'
    assert verdicts[1].endswith(sign)
    assert any("Wilson's, at 99.5%." in " ".join(text.split()) for text in found.texts("p"))
    assert said.splitlines()[-2:] == [f"judge: {text}" for text in verdicts]
    assert found.texts("h1") == ["judge: 100.0% of held-out pairs in the right order"]
    assert [text for text in found.texts("figcaption") if "how often it is right" in text]
    config = json.loads((folder(tmp_path) / "model/config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"] and config["score_type"] == "cost"
    assert config["score_dim"] == 1 and config["do_normalize"] is False
    index = json.loads((folder(tmp_path) / "model/model.safetensors.index.json").read_text())
    tensors = load_file(folder(tmp_path) / "model" / index["weight_map"]["score_head.weight"])
    assert tensors["score_head.weight"].shape == (1, 64) and "lm_head.weight" not in index["weight_map"]
    first = json.loads((folder(tmp_path) / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(3 * np.log(2), abs=1e-5)  # the pair, and a sign of each response


@pytest.fixture
def chatml(tiny_folder, tmp_path):
    """A model whose chat template writes a line break behind its end token."""
    folder = shutil.copytree(tiny_folder, tmp_path / "chatml")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ eos_token }}", "{{ eos_token }}\n"))
    return folder


def test_a_scorer_gives_the_scores_of_trainings_own_head(train, tmp_path, chatml):
    """In both layouts, on dialogues: template, end token, turns before and all."""
    dialogues = [
        {**row, "prompt": [*PAST, {"role": "user", "content": row["prompt"]}]} for row in telling_rows(60)
    ]
    write_lines(tmp_path / "own.jsonl", dialogues)
    flags = ("--model.path", str(chatml), "--epochs", "1")
    train(*flags)
    run = ScoreModelRun(parse_score_model(["--config", str(tmp_path / "judge.yaml"), *flags])[0])
    model = split(run.load(run.config.lora), run.config.lora)
    weights = read_weights(run, "score_model", initial_weights(model, run.files.config.hidden))
    data = score_data(run, "heldout")
    spec = score_objective(run.config, model.graph, data.steps)
    expected = heldout_scores(spec, weights, model.frozen, data)
    responses = data.responses
    assert np.abs(expected[:, 0] - expected[:, 1]).min() > 1e-3
    for layout in LAYOUTS:
        out = tmp_path / layout
        decoder = nnx.merge(model.graph, weights.decoder, model.frozen)
        settings = {"layout": layout, "objective": "reward"}
        export_score_model(decoder, np.asarray(weights.head), run.files, out, **settings)
        values = {"kind": "reward_model", "path": str(out), "better": "higher"}
        scores = load_scorer(values)(responses, None)
        np.testing.assert_allclose(scores.values, expected, atol=1e-4)


def test_dry_run_by_shapes_alone(train, tmp_path, tiny_folder):
    said = train("--dry_run", "--model_config", str(tiny_folder / "config.json"), "--model.path", "no/where")
    assert "no model opened, 0.1 M parameters" in said and "preferences: not read" in said
    assert "│ training step" in said and not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match="--model_config belongs to --dry_run"):
        train("--model_config", str(tiny_folder / "config.json"))
    with pytest.raises(InputError, match="--model_config nowhere is not a file"):
        train("--dry_run", "--model_config", "nowhere")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--accumulation", "3"], "use a divisor of pairs_per_step, which is 8"),
        (["--objectiv", "cost"], "objectiv is not a key; did you mean objective"),
        (["--template", "plain"], "must be text: 'chat' or a text that holds"),
        (["--preferences.path", "nowhere"], "check the spelling"),
        (["--optimizer.learning_rate", "1e30"], r"not finite at step .*; lower optimizer\.learning_rate"),
        (["--regularization", "-1"], "regularization is -1"),
        (["--dry_run", "--optimizer.warmup_steps", "99"], "warmup_steps is 99 and this training has"),
    ],
)
def test_mistakes(train, flags, message):
    with pytest.raises(InputError, match=message):
        train(*flags)


def test_a_dimension_that_is_absent(train, tmp_path):
    write_lines(tmp_path / "own.jsonl", [{**row, "better_response_id": None} for row in telling_rows(60)])
    with pytest.raises(InputError, match="no 'better' labels"):
        train()


def test_a_cost_without_safety_labels(train, tmp_path):
    unknown = {"is_response_0_safe": None, "is_response_1_safe": None}
    write_lines(tmp_path / "own.jsonl", [row | unknown for row in telling_rows(60)])
    with pytest.raises(InputError, match=r"is_response_1_safe \(of response_1 or rejected\), or"):
        train("--objective", "cost", "--dry_run")


def test_help_names_its_own_keys(capsys):
    with pytest.raises(SystemExit):
        reward.main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m cann_jax.reward") and "--regularization" in said
    assert "--constraints" not in said
