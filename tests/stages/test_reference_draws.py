"""The reference's own responses and scores in `calibrate` and `evaluate`: what makes them anew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cann_jax import train
from cann_jax.command_line.run_options import parse_run
from cann_jax.run.outputs import REFERENCE
from cann_jax.run.policies import Draw, Sampled, sample_reference
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers
from cann_jax.stages.evaluate import HELDOUT_SEED
from tests.builders.models import save_tiny
from tests.builders.runs import write_prompts

KEPT = ("calibrate/reference", "evaluate/reference")
MARGIN = ("--constraints.relevance.margin", "0.015")


def test_another_margin_keeps_them_and_gives_what_a_run_from_scratch_gives(copied, capsys):
    folder, flags = copied
    scratch = folder / "scratch/tiny"
    scratch.mkdir(parents=True)
    for name in ("config.json", "sample", "score"):
        source = folder / "runs/tiny" / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, scratch / name)
    train.main([*flags, *MARGIN])
    said = capsys.readouterr().out
    assert all(f"{part}: done already" in said for part in KEPT) and "align: computed again" in said
    train.main([*flags, *MARGIN, "--run_dir", str(folder / "scratch")])
    said = capsys.readouterr().out
    assert not any(f"{part}: done already" in said for part in KEPT) and "score: done already" in said
    both = (folder / "runs/tiny", scratch)
    for name in ("evaluate/reference.parquet", "evaluate/aligned.parquet"):
        tables = [pq.read_table(each / name) for each in both]
        assert tables[0] == tables[1]
    results = [json.loads((each / "evaluate/results.json").read_text()) for each in both]
    spent = [each["summary"].pop("compute") for each in results]
    assert results[0] == results[1] and results[0]["relevance"]["asked"] == pytest.approx(0.015)
    # What was kept is counted with the rest.
    assert spent[0]["generated_tokens"] == spent[1]["generated_tokens"] > 0
    scales = [(each / "calibrate/scale.json").read_text() for each in both]
    assert scales[0] == scales[1]


def drawn(run: Run, folder: Path) -> Sampled:
    """What `evaluate` of the run asks for first, kept in the folder or drawn into it."""
    scorers = load_scorers(run, run.config.measured())
    prompts, seed = encoded_prompts(run, "heldout"), run.config.seed + HELDOUT_SEED
    draw = Draw(prompts, run.config.evaluate.responses, seed, folder)
    return sample_reference(run, scorers, draw, REFERENCE)


def same(one: Sampled, other: Sampled) -> bool:
    """Whether texts, log-probs and scores agree to the bit."""
    here, there = one.responses, other.responses
    return (
        here.texts == there.texts
        and np.array_equal(here.logps, there.logps)
        and one.scores.keys() == other.scores.keys()
        and all(np.array_equal(one.scores[name], other.scores[name]) for name in one.scores)
    )


def changes(folder: Path) -> dict[str, tuple[str, ...]]:
    """What the draws depend on, and flags that change it."""
    return {
        "model": ("--model.path", str(save_tiny(folder / "model", seed=1))),
        "dtype": ("--model.dtype", "bfloat16"),
        "prompts": ("--prompts.heldout", write_prompts(folder / "others.jsonl", 6, "Tell us of")),
        "system": ("--prompts.system", "Be kind."),
        "seed": ("--seed", "1"),
        "tokens": ("--sample.max_new_tokens", "7"),
        "number": ("--evaluate.responses", "3"),
        "scorer": ("--reward.scorer.better", "lower"),
        "per token": ("--constraints.relevance.scorer.per_token", "false"),
        "also": ("--evaluate.also", "{again: {kind: relevance}}"),
    }


def test_what_they_depend_on_makes_them_anew(copied, tmp_path, capsys):
    _, flags = copied
    home = Run(parse_run(flags)[0]).folder / "evaluate"
    before = drawn(Run(parse_run(flags)[0]), home)
    shutil.copytree(home, tmp_path / "kept")
    wrong = []
    for what, change in changes(tmp_path).items():
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "kept", home)
        capsys.readouterr()
        found = drawn(Run(parse_run([*flags, *change])[0]), home)
        if "evaluate/reference: computed again" not in capsys.readouterr().out:
            wrong.append(what)
        if same(found, before):
            wrong.append(f"{what}: the same responses and scores")
    assert not wrong


@pytest.mark.parametrize(
    "change",
    [
        MARGIN,
        ("--dual.beta", "0.5"),
        ("--align.lora.rank", "3"),
        ("--calibrate.tries", "1"),
        ("--evaluate.policy", "reference"),
        ("--evaluate.policy", "resample"),
    ],
    ids=" ".join,
)
def test_nothing_else_does(copied, capsys, change):
    _, flags = copied
    run = Run(parse_run([*flags, *change])[0])
    capsys.readouterr()
    drawn(run, run.folder / "evaluate")
    assert "evaluate/reference: done already" in capsys.readouterr().out
