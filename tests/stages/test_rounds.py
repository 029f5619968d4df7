"""On-policy rounds: λ moves by what was measured, training goes on, and a killed round is taken up again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.run.outputs import read_dual, scores_to_tilt
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.training import alignment
from cann_jax.stages import rounds as rounds_stage
from tests.builders.damage import changed
from tests.builders.runs import saved_weights

FLAGS = ("--rounds", "3", "--online.responses", "3", "--online.prompts", "10", "--stages", "align,rounds")


def records(folder):
    return json.loads((folder / "runs/tiny/rounds/rounds.json").read_text())


@pytest.fixture
def rounds(again, copy, recorder):
    with recorder.recording():
        said = again(*FLAGS)
    assert "align: done already" in said and "round 3: length@even:" in said
    return copy


def test_rounds_read_what_the_table_says(rounds, recorder):
    assert recorder.reads["rounds"] and not recorder.undeclared()


def test_multipliers_move_by_the_margin_that_is_missed(rounds):
    dual = json.loads((rounds / "runs/tiny/dual/dual.json").read_text())
    names = [label.partition("@")[0] for label in dual["constraints"]]
    before = np.array(dual["multipliers"])
    for record in records(rounds):
        measured, after, was = (
            np.array([record[key][name] for name in names])
            for key in ("measured_improvement", "multipliers", "multipliers_before")
        )
        np.testing.assert_allclose(was, before, rtol=1e-6)
        missed = np.array(dual["margins"]) - measured
        expected = np.maximum(before + missed * dual["beta"] / np.square(dual["spread"]), 0)
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
        before = after
    assert [record["round"] for record in records(rounds)] == [2, 3]


def test_a_round_that_was_altered_ends_as_an_undisturbed_one(rounds, again):
    found, trained = records(rounds), saved_weights(rounds / "runs/tiny/rounds/weights")
    (rounds / "runs/tiny/rounds/manifest.json").unlink()
    record = rounds / "runs/tiny/rounds/03/round.json"
    record.write_bytes(changed(record.read_bytes(), "flipped"))
    said = again(*FLAGS)
    assert "rounds: continuing with what was finished before" in said and "rounds/02: done already" in said
    assert "rounds/03: outputs.round.json was altered after the stage ended" in said
    assert records(rounds) == found
    jax.tree.map(np.testing.assert_array_equal, saved_weights(rounds / "runs/tiny/rounds/weights"), trained)


def test_another_number_of_rounds_keeps_those_that_are_finished(rounds, again):
    """To go from 2 rounds to 3, as the report advises, sampled and trained round 2 again."""
    folder = rounds / "runs/tiny/rounds"
    found, trained = records(rounds), saved_weights(folder / "weights")
    two = ("--rounds", "2", *FLAGS[2:])
    assert "rounds/02: done already" in again(*two) and records(rounds) == found[:1]
    assert not (folder / "03").exists()  # the report would show its training
    said = again(*FLAGS)
    assert "rounds/02: done already" in said and "rounds/03: done already" not in said
    assert records(rounds) == found
    jax.tree.map(np.testing.assert_array_equal, saved_weights(folder / "weights"), trained)
    said = again(*two, "--online.dual_step", "0.5")
    assert "rounds/02: settings.online.dual_step: 1.0 → 0.5" in said and not (folder / "03").exists()
    assert records(rounds)[0]["multipliers"] != found[0]["multipliers"]


def test_the_last_round_is_what_is_evaluated(rounds, again):
    flags = [*FLAGS[:-1], "evaluate"]
    again(*flags)
    results = json.loads((rounds / "runs/tiny/evaluate/results.json").read_text())
    found = records(rounds)[-1]["multipliers"]
    last = {"length@even": found["length"], "vowels": found["vowels"]}
    assert results["summary"]["multipliers"] == pytest.approx(last, rel=1e-6)
    assert "evaluate: inputs" in again("--stages", "evaluate")  # one round again: the first alignment's


def test_a_group_has_the_weight_that_it_has_in_training(copy):
    """λ was found for g divided by the group's share there, which other prompts need not have."""
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    ones = {name: np.ones((4, 2), np.float32) for name in ("reward", "length", "vowels")}
    share = read_dual(run).shares["length"]
    assert 0.4 < share < 0.6 and read_dual(run).shares["vowels"] == 1
    for groups, expected in ((["even", None, None, None], [1 / share, 0, 0, 0]), (["odd"] * 4, [0] * 4)):
        found = scores_to_tilt(run, ones, groups).constraints
        own = list(run.config.constraints).index("length")
        np.testing.assert_allclose(found[:, 0, own], expected, rtol=1e-6)
        np.testing.assert_allclose(found[:, 0, 1 - own], 1)


def test_a_round_has_a_prompt_of_every_group(copy):
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    every = encoded_prompts(run, "train")
    rare = dataclasses.replace(every.prompts[-1], group="even")
    others = [dataclasses.replace(prompt, group="odd") for prompt in every.prompts[:-1]]
    run.encoded["train"] = dataclasses.replace(every, prompts=(*others, rare))
    config = dataclasses.replace(run.config, online=dataclasses.replace(run.config.online, prompts=3))
    run.config = config
    shared = rounds_stage.Round(run, alignment(config), None, None, None, {})
    for number in range(2, 8):
        assert len(every) - 1 in rounds_stage._prompts_of_round(shared, number)


def test_a_column_cannot_score_new_samples(copy):
    scorer = {"kind": "column", "path": "x.parquet", "column": "x", "better": "higher"}
    config = ["--config", str(copy / "tiny.yaml")]
    with pytest.raises(InputError, match=r"reward\.scorer is a column.*set rounds to 1"):
        parse_run([*config, "--rounds", "2", "--reward.scorer", json.dumps(scorer)])
