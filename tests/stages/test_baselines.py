"""Every command of docs/baselines.md, on the tiny model over one run's samples and scores."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from cann_jax import train
from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.models.flops import flops_a_token
from cann_jax.models.language_model import LanguageModel
from cann_jax.reporting.finished_run import finished_run
from cann_jax.run.outputs import read_samples, read_weights
from cann_jax.run.resample import choices
from cann_jax.run.training import split_decoder
from cann_jax.stages import align
from cann_jax.training.preference_data import PreferenceData
from tests.builders import ROOT
from tests.builders.runs import saved_weights

PAGE = (ROOT / "docs/baselines.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\w[^|]*?) \| `(--[^`]*)` \|", PAGE, re.MULTILINE))
BETA = 0.3  # of the run whose samples are shared


@dataclass
class Baseline:
    """A finished baseline.

    Args:
        folder: Its run.
        flags: What its command added.
        data: What the stage `align` trained on, if it ran.
    """

    folder: Path
    flags: list[str]
    data: PreferenceData | None

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.json("evaluate/results.json")["summary"]

    def columns(self, name: str, width: int = 4) -> dict[str, np.ndarray]:
        table = pq.read_table(self.folder / name)
        return {
            key: table.column(key).to_numpy(zero_copy_only=False).reshape(-1, width)
            for key in table.column_names
        }


@pytest.fixture(scope="module")
def baseline(calibrated, tmp_path_factory, recorder):
    """Run a row of the page, once: samples and scores are those of the run ``calibrated``."""
    done: dict[str, Baseline] = {}

    def baseline(name: str) -> Baseline:
        if name not in done:
            folder = tmp_path_factory.mktemp("baseline")
            (folder / "tiny").mkdir()
            for part in ("config.json", "sample", "score"):
                source = calibrated / "runs/tiny" / part
                (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / "tiny" / part)
            seen: list[PreferenceData] = []
            original = align.train

            def noted(run: Any, training: Any, model: Any, data: PreferenceData, *more: Any) -> Any:
                seen.append(data)
                return original(run, training, model, data, *more)

            flags = shlex.split(ROWS[name])
            with pytest.MonkeyPatch.context() as patch, recorder.recording():
                patch.chdir(ROOT)
                patch.setattr(align, "train", noted)
                train.main(["--config", str(calibrated / "tiny.yaml"), "--run_dir", str(folder), *flags])
            done[name] = Baseline(folder / "tiny", flags, seen[-1] if seen else None)
        return done[name]

    return baseline


@pytest.mark.parametrize("name", ROWS)
def test_it_runs_over_the_same_samples_and_counts_what_it_costs(baseline, calibrated, name, recorder):
    found = baseline(name)
    for part in ("sample", "score"):
        manifests = [path / part / "manifest.json" for path in (found.folder, calibrated / "runs/tiny")]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
    compute = found.summary["compute"]
    assert compute["policy_rounds"] == len(list(found.folder.rglob("metrics.jsonl")))
    assert compute["generated_tokens"] == generated(found.folder)
    stages = compute.pop("stages")
    for key, total in compute.items():
        assert total == pytest.approx(sum(stage[key] for stage in stages.values()))
    assert stages["sample"]["seconds"] > 0 and stages["score"]["generated_tokens"] == 0
    assert (compute["training_flops"] > 0) == (compute["policy_rounds"] > 0)
    assert "FLOPs), " in (found.folder / "report.md").read_text()
    assert not recorder.undeclared()


def generated(folder: Path) -> int:
    """The tokens of all responses that a run left in shards, prompts left out."""
    total = 0
    for path in folder.rglob("*-0*.parquet"):
        table = pq.read_table(path)
        if "response_ids" in table.column_names:
            total += sum(map(len, table.column("response_ids").to_pylist()))
    return total


def test_operations_are_those_of_the_steps(baseline):
    found = baseline("weighted sum")
    row = found.data.row
    shape = finished_run(str(found.folder)).files.config
    lines = (found.folder / "align/metrics.jsonl").read_text().splitlines()
    tokens = sum(json.loads(line)["tokens"] for line in lines)
    expected = tokens * flops_a_token(shape, row, all_weights=False)
    assert found.summary["compute"]["training_flops"] == pytest.approx(expected, rel=1e-6)


def test_the_reference_is_drawn_anew(baseline):
    found = baseline("reference")
    before, after = (
        pq.read_table(found.folder / f"evaluate/{name}.parquet") for name in ("reference", "aligned")
    )
    assert before.column("text") != after.column("text")
    assert after.column("logp") == after.column("reference_logp") and found.summary["kl"] == 0
    assert found.summary["compute"]["policy_rounds"] == 0
    assert {path.name for path in found.folder.iterdir() if path.is_dir()} == {
        "sample", "score", "dual", "evaluate",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, weights",
    [("DPO on the reward", (1, 0)), ("DPO on the constraint", (0, 1)), ("weighted sum", (0.7, 0.3))],
)
def test_labels_are_those_of_the_sum(baseline, name, weights):
    found = baseline(name)
    scores = found.columns("dual/predicted.parquet")
    expected = weights[0] * scores["reward"] + weights[1] * scores["relevance"]
    np.testing.assert_allclose(found.data.reward, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(found.data.reward, axis=1).min() > 0
    assert found.json("dual/dual.json")["chosen"]["by"] == "given"
    assert found.summary["multipliers"] == pytest.approx({"relevance": weights[1]})


def test_the_forecast_is_that_of_the_sum(baseline):
    """Weights from the sum of predictions, applied to the true scores."""
    found = baseline("DPO on the constraint")
    predicted, true = found.columns("dual/predicted.parquet"), found.columns("score/scores.parquet")
    weights = softmax(predicted["relevance"] / BETA, axis=1)
    forecast = found.json("dual/dual.json")["chosen"]["forecast"]
    for name, value in (("relevance", forecast["improvement"][0]), ("reward", forecast["reward"])):
        gain = np.sum(weights * true[name], axis=1) - true[name].mean(1)
        assert value["value"] == pytest.approx(gain.mean(), rel=1e-3, abs=1e-6)


def test_primal_dual_begins_at_zero(baseline):
    found = baseline("primal-dual")
    dual, records = found.json("dual/dual.json"), found.json("rounds/rounds.json")
    assert dual["multipliers"] != [0.0] and dual["chosen"]["multipliers"] == [0.0]
    before = 0.0
    for record in records:
        assert record["multipliers_before"]["relevance"] == pytest.approx(before, rel=1e-6)
        missed = dual["margins"][0] - record["measured_improvement"]["relevance"]
        before = max(before + missed * BETA / dual["spread"][0] ** 2, 0.0)
        assert record["multipliers"]["relevance"] == pytest.approx(before, rel=1e-5, abs=1e-7)
    reward = found.columns("dual/predicted.parquet")["reward"]
    np.testing.assert_allclose(found.data.reward, reward, rtol=1e-6)
    assert found.summary["compute"]["policy_rounds"] == 1 + len(records) == 4


def test_resample_keeps_one_of_each_prompts_draws(baseline):
    found = baseline("resample")
    kept = found.columns("evaluate/aligned.parquet", width=2)
    multiplier = found.json("dual/dual.json")["chosen"]["multipliers"][0]
    for number in range(2):
        shards = sorted((found.folder / "evaluate").glob(f"scores-aligned-{number:02d}-*.parquet"))
        scores = pa.concat_tables([pq.read_table(path) for path in shards])
        reward, relevance = (scores.column(key).to_numpy().reshape(-1, 4) for key in ("reward", "relevance"))
        weights = softmax((reward + multiplier * relevance) / BETA, axis=1)
        for prompt in range(len(weights)):
            column = np.flatnonzero(
                (reward[prompt] == kept["reward"][prompt, number])
                & (relevance[prompt] == kept["relevance"][prompt, number])
            )
            assert len(column)
            gained = kept["logp"][prompt, number] - kept["reference_logp"][prompt, number]
            assert gained == pytest.approx(np.log(4 * weights[prompt, column[0]]), abs=1e-4)
    assert found.summary["compute"]["policy_rounds"] == 0


def test_choices_are_as_frequent_as_their_weights():
    weights = softmax(np.array([1.0, -1.0, 0.5, 0.0, -50.0]))
    count = 40_000
    chosen = choices(np.tile(weights, (count, 1)), np.random.default_rng(0))
    assert chosen.shape == (count, 1)
    found = np.bincount(chosen[:, 0], minlength=5) / count
    assert np.all(np.abs(found - weights) <= 4 * np.sqrt(weights * (1 - weights) / count))


def test_safe_responses_are_preferred_by_the_offset(baseline):
    """Flags, labels and the first loss, by NumPy from the score table."""
    found = baseline("SafeDPO")
    scores = found.columns("score/scores.parquet")
    safe = scores["relevance"] >= scores["relevance"].mean() + 0.01
    kept = safe.any(1)
    assert 0 < safe.mean() < 1 and not kept.all()
    safe, reward = safe[kept], scores["reward"][kept]
    np.testing.assert_array_equal(found.data.safe, safe)
    np.testing.assert_allclose(found.data.reward, reward, rtol=1e-6)
    rows, columns = found.data.places(0)
    labels, losses = found.data.labels(rows, columns), []
    for row, prompt in enumerate(rows[:, 0]):
        for first in range(4):
            for second in range(first + 1, 4):
                i, j = columns[row, first], columns[row, second]
                by_reward = 1 / (1 + np.exp(reward[prompt, j] - reward[prompt, i]))
                flags = safe[prompt, i], safe[prompt, j]
                label = by_reward if flags[0] == flags[1] else float(flags[0])
                assert labels[row, first, second] == pytest.approx(label, abs=1e-6)
                # π = π_ref at the first step; Δ = 1.
                losses.append({(1, 1): np.log(2), (0, 0): 0.0}.get(tuple(map(int, flags)), np.log(1 + np.e)))
    first_loss = json.loads((found.folder / "align/metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert first_loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_a_soup_is_the_average_of_the_updates(baseline):
    found = baseline("adapter soup")
    reward, relevance, soup = (
        adapters(found.folder / name / "weights") for name in ("experts/reward", "experts/relevance", "align")
    )
    assert reward.keys() == relevance.keys() == soup.keys() and len(soup) == 3
    for layer, (a, b) in soup.items():
        assert a.shape[-1] == b.shape[-2] == 4  # two of rank 2
        expected = 0.7 * np.matmul(*reward[layer]) + 0.3 * np.matmul(*relevance[layer])
        np.testing.assert_allclose(np.matmul(a, b), expected, rtol=1e-5, atol=1e-9)
        assert np.abs(expected).max() > 1e-6


def adapters(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The factors A and B of each adapted layer."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, value in saved_weights(folder).items():
        layer, half = re.fullmatch(r"(.*)\['lora'\]\['([ab])'\].*", path).groups()
        found.setdefault(layer, {})[half] = value
    return {layer: (each["a"], each["b"]) for layer, each in found.items()}


def test_another_soup_trains_nothing(baseline, calibrated, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    shutil.copytree(baseline("adapter soup").folder, tmp_path / "tiny")
    flags = [*baseline("adapter soup").flags, "--dual.multipliers", "{reward: 0.2, relevance: 0.8}"]
    capsys.readouterr()
    train.main(["--config", str(calibrated / "tiny.yaml"), "--run_dir", str(tmp_path), *flags])
    said = capsys.readouterr().out
    assert "experts/reward: done already" in said and "experts/relevance: done already" in said
    assert "align: a soup of 0.200 reward, 0.800 relevance" in said and "training" not in said
    results = json.loads((tmp_path / "tiny/evaluate/results.json").read_text())
    again = results["summary"]["compute"]["stages"]["experts"]
    before = baseline("adapter soup").summary["compute"]["stages"]["experts"]
    assert {**again, "seconds": 0} == {**before, "seconds": 0} and again["seconds"] > 0


def test_the_second_step_has_the_first_policy_for_its_reference(baseline):
    found = baseline("SACPO")
    predicted = found.columns("dual/predicted.parquet")
    np.testing.assert_allclose(found.data.reward, 5 * predicted["relevance"], rtol=1e-5, atol=1e-6)
    first = json.loads((found.folder / "align/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(4), abs=1e-5) and first["log_ratio"] == 0
    run = finished_run(str(found.folder))
    model = split_decoder(run, run.config.align.lora)
    weights = read_weights(run, "experts/reward", model.reference)
    policy = LanguageModel.of(model.decoder(weights), run.files)
    responses = read_samples(run)
    expected = policy.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    assert np.abs(expected - responses.logps).max() > 1e-2  # it has moved
    for path in sorted((found.folder / "align").glob("reference-*.parquet")):
        table = pq.read_table(path)
        prompt, response, logp = (table.column(key).to_numpy() for key in ("prompt", "response", "logp"))
        np.testing.assert_allclose(logp, expected[prompt, response], atol=1e-3)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dual.multipliers", "{vowels: 1}"], "dual.multipliers.relevance is missing"),
        (
            ["--dual.multipliers", "{relevance: 1, x: 1}"],
            "dual.multipliers.x is no score; the scores are",
        ),
        (["--dual.multipliers", "{relevance: 0, reward: 0}"], "dual.multipliers are all 0"),
        (
            ["--dual.multipliers", "{relevance: -1}"],
            "dual.multipliers.relevance is -1.0; it must be a finite",
        ),
        (["--dual.multipliers", "plugin"], "is 'plugin'; it must be one of attainable, plug_in or a mapping"),
        (["--align.safety_offset", "1"], "align.safety_offset is 1, and align.loss 'listwise'"),
        (["--align.combination", "soup", "--rounds", "2"], "align.combination is 'soup', and rounds"),
        (["--align.combination", "soup", "--align.lora", "null"], "align.combination is 'soup', of adapters"),
        (
            ["--align.combination", "sequence", "--dual.multipliers", "{reward: 2, relevance: 1}"],
            "dual.multipliers.reward is 2, and the first step",
        ),
    ],
)
def test_settings_that_do_not_fit(calibrated, flags, message):
    given = ["--config", str(calibrated / "tiny.yaml"), "--align.export", "none", *flags]
    with pytest.raises(InputError, match=re.escape(message)):
        parse_run([*given, "--prompts.calibration", "null"])
