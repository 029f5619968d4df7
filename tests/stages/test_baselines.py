"""Every command of docs/baselines.md, on the tiny model over the same samples and scores."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
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
from cann_jax.run.training import aligned_decoder, split_decoder
from cann_jax.stages import align
from cann_jax.training.preference_data import PreferenceData
from tests.builders import ROOT
from tests.builders.runs import calibrated_changes, saved_weights, write_config

PAGE = (ROOT / "docs/baselines.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\w[^|]*?) \| `(--[^`]*)` \|", PAGE, re.MULTILINE))
BETA = 0.3
# Policies that are no single step on r_λ, of which the dual's forecast says nothing.
OTHERS = ("reference", "SafeDPO", "adapter soup", "primal-dual", "resample")
SHORT = ("--online.prompts", "8", "--online.responses", "4")  # rounds are much alike
FEWER = ("--align.group_size", "4")  # all responses that there are here, of the quickstart's 6


@dataclass
class Baseline:
    """A finished baseline.

    Args:
        run: Runs its command again with more flags.
        folder: Its run.
        data: What the stage `align` trained on, if it did.
    """

    run: Callable[..., None]
    folder: Path
    data: PreferenceData | None

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def first_step(self) -> dict[str, float]:
        return json.loads((self.folder / "align/metrics.jsonl").read_text().splitlines()[0])

    @property
    def compute(self) -> dict[str, Any]:
        return self.json("evaluate/results.json")["summary"]["compute"]

    @cached_property
    def predicted(self) -> dict[str, np.ndarray]:
        return self.columns("dual/predicted.parquet")

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        return self.columns("score/scores.parquet")

    def columns(self, name: str, width: int = 4) -> dict[str, np.ndarray]:
        table = pq.read_table(self.folder / name)
        columns = zip(table.column_names, table.columns, strict=True)
        return {key: own.to_numpy().reshape(-1, width) for key, own in columns}


@pytest.fixture(scope="module")
def shared(tmp_path_factory, tiny_folder) -> Path:
    """The samples and scores that all baselines share; features tell something of both scores."""
    folder = tmp_path_factory.mktemp("shared")
    changes = calibrated_changes(folder)
    length = {"kind": "function", "function": "tests.builders.toy_scorers:length", "better": "lower"}
    changes["reward"] = {"scorer": length}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        train.main(["--config", write_config(folder, tiny_folder, **changes), "--stages", "sample,score"])
    return folder


@pytest.fixture
def baseline(shared, tmp_path, monkeypatch, recorder):
    """Run a row of the page over these samples."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(shared / "runs/tiny", tmp_path / "tiny")
    seen: list[PreferenceData] = []
    original = align.train

    def noted(run: Any, training: Any, model: Any, data: PreferenceData, *more: Any) -> Any:
        seen.append(data)
        return original(run, training, model, data, *more)

    monkeypatch.setattr(align, "train", noted)

    def baseline(name: str) -> Baseline:
        given = ["--config", str(shared / "tiny.yaml"), "--run_dir", str(tmp_path), *SHORT]

        def run(*more: str) -> None:
            with recorder.recording():
                train.main([*given, *shlex.split(ROWS[name]), *FEWER, *more])

        run()
        return Baseline(run, tmp_path / "tiny", seen[-1] if seen else None)

    return baseline


def generated(folder: Path) -> int:
    """The tokens of all responses that a run left in shards, prompts left out."""
    tables = [pq.read_table(path) for path in folder.rglob("*-0*.parquet")]
    found = [table.column("response_ids") for table in tables if "response_ids" in table.column_names]
    return sum(len(ids) for column in found for ids in column.to_pylist())


@pytest.mark.parametrize("name", ROWS)
def test_baseline(baseline, shared, capsys, recorder, name):
    """It uses the shared samples, counts what it costs, and is what it says it is."""
    found = baseline(name)
    for part in ("sample", "score"):
        manifests = [path / part / "manifest.json" for path in (found.folder, shared / "runs/tiny")]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
    compute = found.compute
    assert compute["policy_rounds"] == len(list(found.folder.rglob("metrics.jsonl")))
    assert compute["generated_tokens"] == generated(found.folder)
    stages = compute.pop("stages")
    for key, total in compute.items():
        assert total == pytest.approx(sum(stage[key] for stage in stages.values()))
    assert stages["sample"]["seconds"] > 0 and stages["score"]["generated_tokens"] == 0
    assert (compute["training_flops"] > 0) == (compute["policy_rounds"] > 0)
    results, report = found.json("evaluate/results.json"), (found.folder / "report.md").read_text()
    said = capsys.readouterr().out
    assert (results["relevance"]["predicted"] is None) == (name in OTHERS or "moved from the" in said)
    assert "FLOPs), " in report and results["summary"]["trained"] in report
    assert not recorder.undeclared()
    if name in ("reference", "SACPO", "SafeDPO", "adapter soup"):  # whose trainings are not those of any run
        found.run("--dry_run")
        steps = re.findall(r"^(\S+): \d+ steps of up to", capsys.readouterr().out, re.MULTILINE)
        assert len(steps) == compute["policy_rounds"]
    PROPERTIES[name](found, capsys)


def is_drawn_anew(found: Baseline, capsys) -> None:
    before, after = (
        pq.read_table(found.folder / f"evaluate/{name}.parquet") for name in ("reference", "aligned")
    )
    assert before.column("text") != after.column("text")
    assert after.column("logp") == after.column("reference_logp")
    assert {path.name for path in found.folder.iterdir() if path.is_dir()} == {
        "sample", "score", "dual", "evaluate", "tensorboard",
    }  # fmt: skip


def has_labels_of(reward: float, relevance: float) -> Callable[[Baseline, Any], None]:
    def check(found: Baseline, capsys: Any) -> None:
        expected = reward * found.predicted["reward"] + relevance * found.predicted["relevance"]
        np.testing.assert_allclose(found.data.reward, expected, rtol=1e-5, atol=1e-6)
        assert np.ptp(found.data.reward, axis=1).min() > 0
        chosen = found.json("dual/dual.json")["chosen"]
        assert (chosen["by"], chosen["reward_weight"]) == ("given", reward)
        assert chosen["multipliers"] == pytest.approx([relevance])
        # The forecast has weights by the sum of the predictions, and the true scores.
        weights = softmax(expected / BETA, axis=1)
        for name, value in (
            ("relevance", chosen["forecast"]["improvement"][0]),
            ("reward", chosen["forecast"]["reward"]),
        ):
            gain = np.sum(weights * found.scores[name], axis=1) - found.scores[name].mean(1)
            assert value["value"] == pytest.approx(gain.mean(), rel=1e-3, abs=1e-5)
        lines = (found.folder / "align/metrics.jsonl").read_text().splitlines()
        tokens = sum(json.loads(line)["tokens"] for line in lines)
        shape = finished_run(str(found.folder)).files.config
        operations = tokens * flops_a_token(shape, found.data.row, all_weights=False)
        assert found.compute["training_flops"] == pytest.approx(operations, rel=1e-6)

    return check


def has_safe_responses_preferred(found: Baseline, capsys) -> None:
    """Flags, labels and the first loss, by NumPy from the score table."""
    safe = found.scores["relevance"] >= found.scores["relevance"].mean() + 0.01
    kept = safe.any(1)
    assert 0 < safe.mean() < 1 and not kept.all()
    safe, reward = safe[kept], found.scores["reward"][kept]
    np.testing.assert_array_equal(found.data.safe, safe)
    np.testing.assert_allclose(found.data.reward, reward, rtol=1e-6)
    rows, columns = found.data.places(0)
    labels, losses = found.data.labels(rows, columns), []
    for row, first, second in zip(*np.nonzero(np.triu(np.ones((len(rows), 4, 4)), 1)), strict=True):
        prompt, i, j = rows[row, 0], columns[row, first], columns[row, second]
        flags = bool(safe[prompt, i]), bool(safe[prompt, j])
        by_reward = 1 / (1 + np.exp(reward[prompt, j] - reward[prompt, i]))
        label = by_reward if flags[0] == flags[1] else float(flags[0])
        assert labels[row, first, second] == pytest.approx(label, abs=1e-6)
        # π = π_ref at the first step, and Δ = 1.
        losses.append({(True, True): np.log(2), (False, False): 0.0}.get(flags, np.log(1 + np.e)))
    assert found.first_step["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def adapters(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The factors A and B of each adapted layer."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, value in saved_weights(folder).items():
        layer, half = re.fullmatch(r"(.*)\['lora'\]\['([ab])'\].*", path).groups()
        found.setdefault(layer, {})[half] = value
    return {layer: (each["a"], each["b"]) for layer, each in found.items()}


def is_the_average_of_updates(found: Baseline, capsys) -> None:
    def check(shares: tuple[float, float]) -> None:
        reward, relevance, soup = (
            adapters(found.folder / name / "weights")
            for name in ("experts/reward", "experts/relevance", "align")
        )
        assert reward.keys() == relevance.keys() == soup.keys() and len(soup) == 3
        for layer, (a, b) in soup.items():
            assert a.shape[-1] == b.shape[-2] == 4  # two of rank 2
            terms = [
                share * np.matmul(*each[layer])
                for share, each in zip(shares, (reward, relevance), strict=True)
            ]
            np.testing.assert_allclose(np.matmul(a, b), sum(terms), rtol=1e-4, atol=1e-8)
            assert min(np.abs(term).max() for term in terms) > 1e-6

    check((0.7, 0.3))
    before = found.compute["stages"]["experts"]
    found.run("--dual.multipliers", "{reward: 1, relevance: 4}")
    said = capsys.readouterr().out
    assert "experts: done already" in said
    assert "align: a soup of 0.200 reward, 0.800 relevance" in said
    check((0.2, 0.8))  # without any training, which is counted all the same
    assert {**found.compute["stages"]["experts"], "seconds": 0} == {**before, "seconds": 0}


def is_set_without_training(found: Baseline, capsys) -> None:
    """An adapter a score, learnt in its own unit; the policy is their exact sum; a margin trains nothing."""
    folders = {path.name for path in found.folder.iterdir() if path.is_dir()}
    assert folders == {"sample", "score", "dual", "experts", "calibrate", "evaluate", "export", "tensorboard"}
    units = found.json("experts/units.json")
    weights = np.array([units["units"][name] for name in ("reward", "relevance")])
    predicted = [found.predicted[name] for name in ("reward", "relevance")]
    spreads = [np.std(values - values.mean(1, keepdims=True)) for values in predicted]
    np.testing.assert_allclose(weights, spreads, rtol=1e-4)

    def check() -> float:
        scale, run = found.json("calibrate/scale.json"), finished_run(str(found.folder))
        policy = aligned_decoder(run).layers.attention.q_proj.lora
        parts = [adapters(found.folder / f"experts/{name}/weights") for name in ("reward", "relevance")]
        layer = next(name for name in parts[0] if "q_proj" in name)
        coefficients = [scale["coefficients"][name] for name in ("reward", "relevance")]
        terms = [c * np.matmul(*part[layer]) for c, part in zip(coefficients, parts, strict=True)]
        found_update = np.matmul(np.asarray(policy.a[...]), np.asarray(policy.b[...]))
        np.testing.assert_allclose(found_update, sum(terms), rtol=1e-4, atol=1e-8)
        assert min(np.abs(np.matmul(*part[layer])).max() for part in parts) > 1e-6
        # λ = c·β/u, by the coefficients that one step along the direction has.
        multiplier = scale["multipliers"]["relevance"]
        expected = scale["scale"] * np.array([1.0, multiplier]) * weights / BETA
        np.testing.assert_allclose(coefficients, expected, rtol=1e-5)
        summary = found.json("evaluate/results.json")["summary"]
        assert summary["multipliers"]["relevance"] == pytest.approx(multiplier, rel=1e-6)
        for row in scale["linear"].values():
            assert row["correlation"] > 0.9 and row["slope"] == pytest.approx(1, abs=0.3)
        return multiplier

    before, made = check(), (found.folder / "experts/manifest.json").read_bytes()
    config = json.loads((found.folder / "export/adapter/adapter_config.json").read_text())
    assert config["r"] == 4  # two of rank 2
    found.run("--constraints.relevance.margin", "0.03")
    said = capsys.readouterr().out
    assert "experts: done already" in said and "predicted scores" not in said
    assert [f"\n{name}: computed again" in said for name in ("dual", "calibrate", "evaluate")] == [True] * 3
    assert (found.folder / "experts/manifest.json").read_bytes() == made
    assert check() > before


def goes_on_from_the_policy_of_the_reward(found: Baseline, capsys) -> None:
    np.testing.assert_allclose(found.data.reward, 5 * found.predicted["relevance"], rtol=1e-5, atol=1e-6)
    assert found.first_step["loss"] == pytest.approx(np.log(4), abs=1e-5)
    assert found.first_step["log_ratio"] == 0
    run = finished_run(str(found.folder))
    model = split_decoder(run, run.config.align.lora)
    weights = read_weights(run, "experts/reward", model.reference)
    policy, responses = LanguageModel.of(model.decoder(weights), run.files), read_samples(run)
    expected = policy.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    assert np.abs(expected - responses.logps).max() > 1e-2  # it has moved
    for path in (found.folder / "align").glob("reference-*.parquet"):
        table = pq.read_table(path)
        prompt, response, logp = (table.column(key).to_numpy() for key in ("prompt", "response", "logp"))
        np.testing.assert_allclose(logp, expected[prompt, response], atol=1e-3)


def begins_at_zero(found: Baseline, capsys) -> None:
    dual, records = found.json("dual/dual.json"), found.json("rounds/rounds.json")
    assert dual["multipliers"] != [0.0] and dual["chosen"]["multipliers"] == [0.0]
    np.testing.assert_allclose(found.data.reward, found.predicted["reward"], rtol=1e-6)
    before = 0.0
    for record in records:
        assert record["multipliers_before"]["relevance"] == pytest.approx(before, rel=1e-6)
        missed = dual["margins"][0] - record["measured_improvement"]["relevance"]
        before = max(before + missed * BETA / dual["spread"][0] ** 2, 0.0)
        assert record["multipliers"]["relevance"] == pytest.approx(before, rel=1e-5, abs=1e-7)
    assert found.compute["policy_rounds"] == 1 + len(records) == 4


def keeps_one_of_each_draw(found: Baseline, capsys) -> None:
    kept = found.columns("evaluate/aligned.parquet", width=2)
    multiplier = found.json("dual/dual.json")["chosen"]["multipliers"][0]
    for number in range(2):
        shards = sorted((found.folder / "evaluate").glob(f"*/scores-aligned-{number:02d}-*.parquet"))
        scores = pa.concat_tables([pq.read_table(path) for path in shards])
        reward, relevance = (scores.column(key).to_numpy().reshape(-1, 4) for key in ("reward", "relevance"))
        weights = softmax((reward + multiplier * relevance) / BETA, axis=1)
        for prompt in range(len(weights)):
            own = kept["reward"][prompt, number], kept["relevance"][prompt, number]
            column = np.flatnonzero((reward[prompt] == own[0]) & (relevance[prompt] == own[1]))
            assert len(column)
            gained = kept["logp"][prompt, number] - kept["reference_logp"][prompt, number]
            assert gained == pytest.approx(np.log(4 * weights[prompt, column[0]]), abs=1e-4)


PROPERTIES = {
    "reference": is_drawn_anew,
    "DPO on the reward": has_labels_of(1, 0),
    "DPO on the constraint": has_labels_of(0, 10),
    "weighted sum": has_labels_of(1, 5),
    "SACPO": goes_on_from_the_policy_of_the_reward,
    "SafeDPO": has_safe_responses_preferred,
    "adapter soup": is_the_average_of_updates,
    "dial": is_set_without_training,
    "primal-dual": begins_at_zero,
    "resample": keeps_one_of_each_draw,
}


def test_choices_are_as_frequent_as_their_weights():
    weights, count = softmax(np.array([1.0, -1.0, 0.5, 0.0, -50.0])), 40_000
    chosen = choices(np.tile(weights, (count, 1)), np.random.default_rng(0))
    assert chosen.shape == (count, 1)
    found = np.bincount(chosen[:, 0], minlength=5) / count
    assert np.all(np.abs(found - weights) <= 4 * np.sqrt(weights * (1 - weights) / count))


def test_the_flags_are_those_of_the_quickstart(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert ROWS.keys() == PROPERTIES.keys()
    for flags in ROWS.values():
        parse_run(["--config", "configs/quickstart.yaml", "--name", "own", *shlex.split(flags)])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dual.multipliers", "{vowels: 1, relevance: 1}"], "dual.multipliers.vowels is no score"),
        (["--dual.multipliers", "{reward: 1}"], "dual.multipliers.relevance is missing"),
        (["--dual.multipliers", "{relevance: 1, x: 1}"], "dual.multipliers.x is no score; the scores are"),
        (["--dual.multipliers", "{relevance: 0, reward: 0}"], "dual.multipliers are all 0"),
        (["--dual.multipliers", "{relevance: -1}"], "dual.multipliers.relevance is -1.0; it must be"),
        (["--dual.multipliers", "plugin"], "is 'plugin'; it must be one of attainable, plug_in or a mapping"),
        (["--align.safety_offset", "1"], "align.safety_offset is 1, and align.loss 'listwise'"),
        (["--align.combination", "soup", "--rounds", "2"], "align.combination is 'soup', and rounds"),
        (["--align.combination", "soup", "--align.lora", "null"], "align.combination is 'soup', of adapters"),
        (["--align.dial", "true"], "align.dial is true, and prompts.calibration null"),
        (
            ["--align.dial", "true", "--align.combination", "soup"],
            "align.dial is true, and align.combination",
        ),
        (["--align.dial", "true", "--rounds", "2"], "align.dial is true, and rounds train on r_λ"),
        (["--align.dial", "true", "--align.lora", "null"], "align.dial is true, of adapters, and align.lora"),
        (
            ["--align.dial", "true", "--align.loss", "dpo", "--align.label_smoothing", ".1"],
            "by smoothed labels",
        ),
        (["--align.dial", "true", "--align.loss", "ipo"], "align.dial is true, and log-ratios by align.loss"),
        (
            ["--align.dial", "true", "--align.pairs", "dataset"],
            "align.dial is true, of scores of the reference",
        ),
        (
            ["--align.combination", "sequence", "--dual.multipliers", "{reward: 2, relevance: 1}"],
            "dual.multipliers.reward is 2, and the first step",
        ),
    ],
)
def test_settings_that_do_not_fit(monkeypatch, flags, message):
    monkeypatch.chdir(ROOT)
    given = ["--config", "configs/quickstart.yaml", "--export", "[]"]
    with pytest.raises(InputError, match=re.escape(message)):
        parse_run([*given, "--prompts.calibration", "null", *flags])
