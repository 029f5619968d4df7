"""A run that forecasts, scales its step, and certifies: what each stage leaves, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cann_jax import train
from cann_jax.command_line.run_options import parse_run
from cann_jax.core import dial
from cann_jax.core.improvement import Drawn, improvements
from cann_jax.files.atomic import read_table
from cann_jax.files.errors import InfeasibleError, InputError, NotHeldError
from cann_jax.run.outputs import read_predicted, read_scale, read_weights, write_predicted, write_weights
from cann_jax.run.run import Run
from cann_jax.run.training import aligned_decoder, split, split_decoder
from cann_jax.stages import align, calibrate
from tests.builders import toy_hook
from tests.builders.runs import saved_weights

# Where λ is 0: what a random model's features tell of the reward may be nothing, by the processor's draws.
SCORES = ("--align.labels", "scores")


def read(folder: Path, name: str):
    return json.loads((folder / "runs/tiny" / name).read_text())


def test_the_dual_forecasts_and_the_results_show_how_it_did(calibrated):
    dual, results = read(calibrated, "dual/dual.json"), read(calibrated, "evaluate/results.json")
    chosen = dual["chosen"]
    assert chosen["by"] == "attainable"
    assert chosen["multipliers"] == dual["attainable"]["multipliers"] != dual["multipliers"]
    row, forecast = results["relevance"], chosen["forecast"]["improvement"][0]
    assert row["predicted"] == forecast["value"] and row["predicted_interval"] == forecast["interval"]
    low, high = row["predicted_interval"]
    assert low < row["predicted"] < high
    # λ_att meets the margin by what the features tell, on prompts that were left out.
    assert row["predicted"] >= row["asked"] - 1e-4
    assert results["reward"]["predicted_interval"][0] < results["reward"]["predicted_interval"][1]


def test_the_step_is_scaled_and_the_scaled_policy_is_what_is_measured(copied):
    folder, flags = copied
    run = Run(parse_run(flags)[0])
    scale, found = read_scale(run), read(folder, "calibrate/scale.json")
    assert 0 < scale == found["scale"] <= run.config.calibrate.largest and scale != 1
    assert 1 <= len(found["tries"]) <= run.config.calibrate.tries
    nearest = min(abs(each["scale"] - scale) / each["scale"] for each in found["tries"])
    assert found["confirmed"] == (nearest <= calibrate.CONFIRMED)
    assert all(len(each["improvement"]) == 1 and each["error"][0] > 0 for each in found["tries"])
    assert read(folder, "evaluate/results.json")["summary"]["scale"] == scale
    model = split_decoder(run, run.config.align.lora)
    trained = model.decoder(read_weights(run, "align", model.reference))
    pairs = [d.layers.attention.q_proj.lora for d in (trained, aligned_decoder(run))]
    np.testing.assert_allclose(pairs[1].b[...], pairs[0].b[...] * scale, rtol=1e-6)
    np.testing.assert_array_equal(pairs[1].a[...], pairs[0].a[...])


def test_a_training_shares_the_weights_of_the_reference(copied):
    """It held a second copy of all frozen weights, beside the one that sampling had loaded."""
    run = Run(parse_run(copied[1])[0])
    model = split_decoder(run, run.config.align.lora)
    own, frozen = (
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(weights)}
        for weights in (run.reference.weights, model.frozen)
    )
    assert frozen == own
    # And it begins where a model that is loaded with adapters would.
    alone = split(run.load(run.config.align.lora), run.config.align.lora)
    jax.tree.map(np.testing.assert_array_equal, model, alone)


def test_the_scaled_step_is_what_leaves_the_run(calibrated):
    folder = calibrated / "runs/tiny"
    config = json.loads((folder / "export/adapter/adapter_config.json").read_text())
    assert config["lora_alpha"] == pytest.approx(4 * read(calibrated, "calibrate/scale.json")["scale"])


def test_the_hook_was_told_every_step(calibrated):
    rows = [json.loads(line) for line in (calibrated / "runs/tiny/align/metrics.jsonl").open()]
    told = [(step, values["loss"]) for stage, step, values in toy_hook.STEPS if stage == "align"]
    assert told == [(row["step"], row["loss"]) for row in rows] and len(rows) > 3


def test_a_second_start_finds_everything_done(copied, capsys):
    train.main(copied[1])
    said = capsys.readouterr().out
    assert "calibrate: done already" in said and "evaluate: done already" in said
    assert re.match(r"relevance: [A-Z]+\. Asked \+0\.010, measured ", said.splitlines()[-1])


def test_work_that_was_cut_off_goes_on(copied, capsys):
    folder, flags = copied
    before = read(folder, "calibrate/scale.json")
    for name in ("manifest.json", "scale.json"):
        (folder / "runs/tiny/calibrate" / name).unlink()
    train.main([*flags, "--stages", "calibrate"])
    said = capsys.readouterr().out
    assert "continuing with what was finished before" in said and "sampling scale" not in said
    assert read(folder, "calibrate/scale.json") == before


def test_the_certificates_bound_is_added_to_the_aim(copied):
    folder, flags = copied
    aimed = []
    for power in ("0.5", "0.9"):
        wanted = ["--calibrate.aim", "certificate", "--calibrate.power", power, "--calibrate.tries", "1"]
        train.main([*flags, *wanted, "--stages", "calibrate"])
        row = read(folder, "calibrate/scale.json")["constraints"]["relevance"]
        aimed.append(row["target"])
        assert row["target"] > row["asked"]
    assert aimed[1] > aimed[0]


def test_one_prompt_tells_no_error(copied):
    folder, flags = copied
    (folder / "one.jsonl").write_text('{"prompt": "nothing like the others", "group": "even"}')
    flags += ["--prompts.calibration", str(folder / "one.jsonl"), "--calibrate.tries", "1"]
    train.main([*flags, "--stages", "calibrate"])
    assert read(folder, "calibrate/scale.json")["tries"][0]["error"] == [None]


def test_every_constraint_shares_in_the_chance_that_all_hold(copied, monkeypatch):
    """Two that hold with a chance of .9 each hold together with .81 only."""
    flags = [*copied[1], "--calibrate.aim", "certificate"]
    config = parse_run(flags)[0]
    twice = dataclasses.replace(
        config, constraints=config.constraints | {"again": config.constraints["relevance"]}
    )
    seen = []
    monkeypatch.setattr(calibrate, "ndtri", lambda power: seen.append(power) or 0.0)
    monkeypatch.setattr(calibrate, "_values", lambda *_: np.arange(8.0).reshape(4, 2))
    goal = calibrate.Goal(calibrate.constraints_of(config)[0], "relevance", 0.1, 100)
    for each in (config, twice):
        calibrate._target(each, goal, None, None)
    assert seen == pytest.approx([config.calibrate.power, 1 - (1 - config.calibrate.power) / 2])


def test_log_probs_tell_of_a_gain_where_they_are_of_what_was_drawn(copied, monkeypatch):
    """For a level, or at another temperature, the means of what was drawn are compared."""
    config = parse_run(copied[1])[0]
    rng = np.random.default_rng(0)
    before, after, there, here = rng.normal(size=(4, 40, 2))
    groups = ["even", "odd"] * 20
    responses = SimpleNamespace(groups=lambda: groups)
    reference = SimpleNamespace(responses=responses, values=before)
    drawn = SimpleNamespace(log_ratios=here, values=after)
    own = calibrate.in_group

    def values(sampled, goal):
        return sampled.values[own(goal.constraint, groups)]

    monkeypatch.setattr(calibrate, "_values", values)
    margin = calibrate.constraints_of(config)[0]
    level = dataclasses.replace(margin, margin=None, at_least=0.5)
    for constraint in (margin, level, dataclasses.replace(margin, group="odd")):
        goal = calibrate.Goal(constraint, "relevance", 0.1, 100)
        chosen = own(constraint, groups)
        plain = after[chosen].mean(1) - before[chosen].mean(1)
        told = improvements(Drawn(before[chosen], there[chosen]), Drawn(after[chosen], here[chosen]))
        expected = plain if constraint is level else told
        found = calibrate._gains(goal, reference, calibrate.Tried(drawn, there))
        np.testing.assert_array_equal(found, expected)
        found = calibrate._gains(goal, reference, calibrate.Tried(drawn, None))
        np.testing.assert_array_equal(found, plain)


def test_scores_that_do_not_vary_are_no_fault_of_the_calibration(copied):
    """A safety score of 0 or 1 may be 1 in all that is drawn, after hours of training."""
    config = parse_run(copied[1])[0]
    columns = {"reward": np.zeros((4, 2), np.float32), "relevance": np.ones((4, 2), np.float32)}
    assert np.all(calibrate.problem_of(config, columns, [None] * 4).scores.constraints == 1)


def test_the_kl_limit_is_kept_and_said(copied, capsys):
    folder, flags = copied
    train.main([*flags, "--calibrate.kl_limit", "1e-9", "--stages", "calibrate"])
    found = read(folder, "calibrate/scale.json")
    assert not found["met"] and found["kl"] <= 1e-9
    assert "no scale within calibrate.kl_limit" in capsys.readouterr().out


def test_an_adapter_of_zeros_has_no_scale(copied):
    folder, flags = copied
    run = Run(parse_run(flags)[0])
    write_weights(run, "align", split_decoder(run, run.config.align.lora).reference)
    with pytest.raises(InputError, match=r"the adapter that was trained is zero.*learning_rate") as caught:
        calibrate.run(run)
    assert "\n" not in str(caught.value)
    assert (folder / "runs/tiny/align/weights").exists() and read(folder, "dual/dual.json")


def test_labels_that_prefer_no_response_are_refused_before_training(copied):
    """Features told nothing of the reward, and λ was 0: hours of training ended in an adapter of zeros."""
    run = Run(parse_run(copied[1])[0])
    shape = read_predicted(run)[1].shape
    write_predicted(run, np.zeros(shape[:2]), np.zeros(shape))
    with pytest.raises(InputError, match=r"align: r_λ is the same .* set align\.labels to scores") as caught:
        align.run(run)
    assert "\n" not in str(caught.value)


def test_where_no_step_is_scaled_there_may_be_nothing_to_learn(copied, capsys):
    """A constraint that the reference meets has λ = 0, and the step of a sequence on it is none."""
    run = Run(parse_run([*copied[1], "--prompts.calibration", "null"])[0])
    shape = read_predicted(run)[1].shape
    write_predicted(run, np.zeros(shape[:2]), np.zeros(shape))
    align.run(run)
    assert (
        "align: r_λ is the same for all responses to a prompt, so that nothing is" in capsys.readouterr().out
    )


def test_a_margin_above_the_ceiling_is_refused_before_training(copied, capsys):
    folder, flags = copied
    ceiling = read(folder, "dual/dual.json")["attainable"]["ceiling"][0]
    largest = read(folder, "dual/dual.json")["largest_margin"][0]
    margin = str((ceiling + largest) / 2)
    with pytest.raises(InfeasibleError, match=rf"above what this model can tell.*ceiling \+{ceiling:.4g}"):
        train.main([*flags, "--constraints.relevance.margin", margin])
    assert "above what this model can tell" in capsys.readouterr().out
    assert read(folder, "dual/dual.json")["attainable"]["reachable"] is False
    assert (folder / "runs/tiny/align/weights").exists()  # nothing that was computed is lost


def test_the_paper_trains_all_the_same(copied):
    folder, flags = copied
    largest = read(folder, "dual/dual.json")["largest_margin"][0]
    plug_in = ("--dual.multipliers", "plug_in", "--constraints.relevance.margin", str(0.9 * largest))
    train.main([*flags, *plug_in, "--stages", "dual"])
    found = read(folder, "dual/dual.json")
    assert found["chosen"]["multipliers"] == found["multipliers"]
    assert found["chosen"]["forecast"]["improvement"][0]["value"] < 0.9 * largest


def test_more_folds_than_prompts_are_refused(copied):
    with pytest.raises(InputError, match=r"dual\.folds: .*prompts"):
        train.main([*copied[1], "--dual.folds", "99", "--stages", "dual"])


def test_too_few_prompts_leave_a_forecast_out_that_nothing_needs(copied, capsys):
    folder, flags = copied
    plug_in = ("--dual.multipliers", "plug_in", "--align.labels", "scores")
    train.main([*flags, *plug_in, "--dual.folds", "99", "--stages", "dual"])
    assert "dual: no forecast: 40 prompts, and dual.folds is 99; lower it to 40" in capsys.readouterr().out
    dual = read(folder, "dual/dual.json")
    assert dual["chosen"]["forecast"] is None and "attainable" not in dual
    assert read_table(folder / "runs/tiny/dual/predicted.parquet").num_rows == 0


def test_a_verdict_can_be_required(copied):
    _, flags = copied
    wanted = ["--constraints.relevance.margin", "0.0001", "--dual.multipliers", "plug_in", *SCORES]
    with pytest.raises(NotHeldError, match="--require holds: the verdict is"):
        train.main([*flags, *wanted, "--evaluate.confidence", "0.999999", "--require", "holds"])
    with pytest.raises(InputError, match="--require reads the verdict of the stage 'evaluate'"):
        train.main([*flags, "--stages", "dual", "--require", "holds"])


def test_one_policy_is_sampled_where_the_weights_see_no_gain(copied, monkeypatch):
    """Weights of two responses may have the wrong sign; scale 0 was kept on their word alone."""
    folder, flags = copied
    found = dial.shape

    def blind(*given):
        known = found(*given)
        return dataclasses.replace(known, improvements=-np.abs(known.improvements))

    monkeypatch.setattr(dial, "shape", blind)
    train.main([*flags, "--calibrate.tries", "1", "--stages", "calibrate"])
    assert [each["scale"] for each in read(folder, "calibrate/scale.json")["tries"]] == [1.0]


@pytest.mark.parametrize("limit, met", [("3", True), ("1e-9", False)])
def test_rounds_start_from_the_scaled_step_and_are_spared_where_it_meets_its_aim(copied, capsys, limit, met):
    folder, flags = copied
    flags += ["--constraints.relevance.margin", "-0.5" if met else "0.01", *SCORES]
    flags += ["--calibrate.kl_limit", limit, "--calibrate.tries", "1", "--rounds", "2"]
    train.main([*flags, "--stages", "dual,align,calibrate,rounds"])
    found = read(folder, "calibrate/scale.json")
    assert found["met"] is met
    assert ("no further round is needed" in capsys.readouterr().out) == met
    records = read(folder, "rounds/rounds.json")
    assert len(records) == (0 if met else 1)
    for record in records:  # at scale 0 the policy is the reference, and draws of both differed by +0.017
        assert found["scale"] == 0 and record["measured_improvement"] == {"relevance": 0}
        assert record["multipliers"]["relevance"] > record["multipliers_before"]["relevance"]
    trained, after = (saved_weights(folder / f"runs/tiny/{stage}/weights") for stage in ("align", "rounds"))
    factors = [path for path in trained if "'b'" in path]
    assert factors and after.keys() == trained.keys()
    scaled = [np.allclose(after[path], trained[path] * found["scale"], rtol=1e-5) for path in factors]
    assert all(scaled) if met else not any(scaled)


def numbers(value):
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value


def test_numbers_are_written_as_people_write_them(calibrated):
    """The margin 0.01 was 0.009999999776482582 in three files."""
    for name in ("dual/dual.json", "calibrate/scale.json", "evaluate/results.json"):
        for number in numbers(read(calibrated, name)):
            short = float(f"{number:.4g}")  # of more digits, a mean of few scores may be a float32 by chance
            assert number == short or number != float(np.float32(short)), (name, number)
    assert read(calibrated, "evaluate/results.json")["relevance"]["asked"] == 0.01


@pytest.mark.parametrize("margin, verdict", [("0.01", "fails"), ("-0.5", "holds")])
def test_a_step_that_was_not_taken_is_known_to_change_nothing(copied, capsys, margin, verdict):
    """Differences that are all 0 decided nothing: no number of prompts would have told 0 from the margin."""
    folder, flags = copied
    flags += ["--calibrate.kl_limit", "1e-9", "--calibrate.tries", "1"]
    flags += ["--constraints.relevance.margin", margin, *SCORES]
    train.main([*flags, "--stages", "dual,align,calibrate,evaluate"])
    found, said = read(folder, "evaluate/results.json"), capsys.readouterr().out
    certificate = found["relevance"]["certificate"]
    assert (found["summary"]["scale"], found["summary"]["kl"]) == (0, 0)
    assert (certificate["verdict"], certificate["lower"], certificate["upper"]) == (verdict, 0, 0)
    assert found["summary"]["verdict"] == verdict and found["reward"]["measured"] == 0
    assert "calibrate: at scale 0 the model is the reference" in said
    assert "evaluate: no step was taken: the model is the reference\n" in said
    assert said.rstrip().endswith("unseen prompts; no step was taken: the model is the reference")
    assert "too near" not in said and "calibrate.aim" not in said


def test_a_level_of_the_reference_is_judged_by_the_sample(copied):
    folder, flags = copied
    config = json.loads((folder / "runs/tiny/config.json").read_text())
    level = {"scorer": config["constraints"]["relevance"]["scorer"], "at_least": -100.0}
    flags += ["--calibrate.kl_limit", "1e-9", "--constraints", json.dumps({"relevance": level}), *SCORES]
    train.main([*flags, "--stages", "dual,align,calibrate,evaluate"])
    found = read(folder, "evaluate/results.json")
    certificate = found["relevance"]["certificate"]
    assert found["summary"]["scale"] == 0 and certificate["verdict"] == "holds"
    assert certificate["lower"] < certificate["mean"] < certificate["upper"]
    # The table showed what the held-out prompts lack, and the file what those of the training did.
    assert found["relevance"]["asked"] == pytest.approx(-100 - found["relevance"]["before"], abs=1e-5)
    assert read(folder, "dual/dual.json")["margins"][0] != pytest.approx(
        found["relevance"]["asked"], rel=1e-6
    )


def test_an_aim_far_above_its_margin_is_said_to_need_more_prompts(copied):
    constraint = calibrate.constraints_of(parse_run(copied[1])[0])[0]
    goals = [calibrate.Goal(constraint, "short", asked, 96) for asked in (0.1, 0.1, -0.1)]
    lines = list(calibrate._far_aims(goals, np.array([1.738, 0.19, 1.0])))
    assert len(lines) == 1 and "of 96 held-out prompts takes +1.638, more than the margin" in lines[0]
    assert "about 25,758," in lines[0]  # 96 · 16.38²
