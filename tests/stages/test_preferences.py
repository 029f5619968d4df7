"""Training on human preferences: the baselines, and MoCAN on a data set's pairs."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cann_jax import train
from cann_jax.files.errors import InputError
from cann_jax.stages import align
from tests.builders import ROOT
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import metrics, write_config

NO_GROUP = ("--constraints.length.group", "null")
SHORT = ("--align.epochs", "1", "--align.prompts_per_step", "4", "--export", "[]")


@pytest.fixture
def run(tmp_path, tiny_folder, monkeypatch, capsys):
    """Run stages on a data set of 30 pairs; returns what was printed."""
    monkeypatch.chdir(ROOT)
    rows = [pku_row(n, **({"better_response_id": None} if n % 3 == 0 else {})) for n in range(30)]
    section = {
        "dataset": "local",
        "on_overlong": "error",
        "path": str(write_lines(tmp_path / "own.jsonl", rows)),
        "prepared": str(tmp_path / "prepared"),
    }
    config = write_config(tmp_path, tiny_folder, preferences=section)

    def run(*flags: str) -> str:
        train.main(["--config", config, "--align.pairs", "dataset", *NO_GROUP, *SHORT, *flags])
        return capsys.readouterr().out

    return run


def test_dpo_on_better_needs_no_scores(run, tmp_path):
    """The baselines read pairs alone; a pair without the label is left out and counted."""
    said = run("--align.preference", "better", "--stages", "pairs,align")
    pairs = pq.read_table(tmp_path / "runs/tiny/pairs/train.parquet")
    unlabelled = sum(label == -1 for label in pairs.column("better").to_pylist())
    assert unlabelled and f"{unlabelled} of {pairs.num_rows} pairs have no label 'better'; left out" in said
    assert "  100% preferred: Do step" in said and "r_λ" not in said  # people's labels have no λ
    first = metrics(tmp_path)[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6) and first["margin_mean"] == 0
    assert len(metrics(tmp_path)) == -(-(pairs.num_rows - unlabelled) // 4)


def test_what_people_labelled_has_no_multiplier_and_no_forecast(run, tmp_path):
    """A policy of people's labels had the λ, the predicted improvement and the KL of a step on r_λ."""
    said = run("--align.preference", "safer", "--export", "[merged]")
    folder = tmp_path / "runs/tiny"
    words = "one preference step on people's labels of what is safer"
    assert json.loads((folder / "dual/dual.json").read_text())["chosen"]["forecast"] is not None
    results = json.loads((folder / "evaluate/results.json").read_text())
    summary = results["summary"]
    assert results["vowels"]["predicted"] is None and results["reward"]["predicted"] is None
    assert (summary["kl_predicted"], summary["multipliers"], summary["trained"]) == (None, {}, words)
    assert f"\nβ = 1; trained: {words}\n" in said and "(no forecast)" in said
    assert "; the run takes none" in (folder / "report.md").read_text()
    html = (folder / "report.html").read_text()
    assert "Nothing was predicted of this policy" in html and "predicted was computed" not in html
    card = (folder / "export/merged/README.md").read_text()
    assert f"What was trained: {words}." in card and "⟨λ, g⟩" not in card


def test_mocan_on_a_data_sets_pairs(run, tmp_path):
    said = run("--stages", "pairs,sample,score,dual,pair_scores,align")
    assert "preferred, reward " in said and ", vowels " in said
    table = pq.read_table(tmp_path / "runs/tiny/pair_scores/scores.parquet")
    pairs = pq.read_table(tmp_path / "runs/tiny/pairs/train.parquet")
    assert table.num_rows == 2 * pairs.num_rows
    assert table.column("prompt_id").to_pylist()[::2] == pairs.column("id").to_pylist()
    expected = [
        np.mean([letter in "aeiou" for letter in text]) for text in pairs.column("response_0").to_pylist()
    ]
    assert np.corrcoef(table.column("vowels").to_numpy()[::2], expected)[0, 1] > 0.99
    # The evaluation alone, later, must not be of prompts that the pairs have trained on either.
    heldout = write_lines(tmp_path / "later.jsonl", [{"prompt": f"How do I do task {n}?"} for n in range(30)])
    kept = (tmp_path / "runs/tiny/config.json").read_bytes()
    with pytest.raises(InputError, match=r"the preference pairs and prompts\.heldout share "):
        run("--prompts.heldout", str(heldout), "--stages", "evaluate")
    assert (tmp_path / "runs/tiny/config.json").read_bytes() == kept  # the run can be used as before
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    again = run("--stages", "pairs,sample,score,dual,pair_scores,align", "--align.loss", "ipo")
    assert "pair_scores: done already" in again and "align: settings.align.loss: " in again
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(1 / 4, rel=1e-5)  # 1/(4β²) at β = 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--align.pairs", "samples", "--align.preference", "better"], "use pairs: dataset"),
        (["--preferences", "null"], "add the section preferences"),
        (["--align.group_size", "3"], "the pairs of a dataset need 2"),
        (["--align.label_smoothing", "0.5"], "align.label_smoothing is 0.5"),
        (["--align.loss", "regression", "--align.soft_labels", "false"], "reads r_λ and no labels of pairs"),
        (["--align.loss", "listwise", "--align.preference", "better"], "reads r_λ and no labels of pairs"),
        (["--align.loss", "listwise", "--align.label_temperature", "2"], "reads r_λ and no labels of pairs"),
        (["--align.labels", "denoised"], "only scores of the reference's samples are predicted"),
        (["--constraints.length.group", "even"], r"constraints\.length\.group"),
        (["--preferences.chosen_is", "helpful"], "preferences.chosen_is is 'helpful'"),
    ],
)
def test_settings_that_do_not_fit(run, flags, message):
    with pytest.raises(InputError, match=message):
        run(*flags)


def test_a_dimension_that_no_pair_has(run, tmp_path):
    rows = [pku_row(n, safer_response_id=None) for n in range(30)]
    write_lines(tmp_path / "own.jsonl", rows)
    with pytest.raises(InputError, match=r"no 'safer' labels, .* has a safer_response_id"):
        run("--align.preference", "safer", "--stages", "pairs,align")


def test_safe_dpo_on_a_data_sets_pairs(run, tmp_path, monkeypatch):
    """People say which responses are safe: one of two, both, neither, or it is not known."""
    flags = [(False, True), (True, True), (False, False), (True, None)]
    rows = [
        pku_row(n, is_response_0_safe=flags[n % 4][0], is_response_1_safe=flags[n % 4][1]) for n in range(32)
    ]
    write_lines(tmp_path / "own.jsonl", rows)
    seen = []

    def stop(run, training, model, data, folder):
        seen.append(data)
        raise InputError("seen enough")

    monkeypatch.setattr(align, "train", stop)
    with pytest.raises(InputError, match="seen enough"):
        run("--align.preference", "better", "--align.safety_offset", "1", "--stages", "pairs,align")
    (data,), pairs = seen, pq.read_table(tmp_path / "runs/tiny/pairs/train.parquet")
    texts, safe = (
        np.stack([pairs.column(f"{name}_{i}").to_pylist() for i in (0, 1)], axis=1)
        for name in ("response", "safe")
    )
    kept = (safe != -1).all(1) & (safe == 1).any(1)
    assert 0 < kept.sum() < len(kept)
    assert data.responses.texts == texts[kept].tolist()
    labels = data.labels(np.arange(kept.sum())[:, None], np.tile([0, 1], (kept.sum(), 1)))
    # The first is better in all rows; where only the second is safe, the second is preferred.
    np.testing.assert_array_equal(labels[:, 0, 1], safe[kept][:, 0])


def test_safe_dpo_without_safety_labels_names_their_columns(run, tmp_path):
    unknown = {"is_response_0_safe": ..., "is_response_1_safe": ...}
    write_lines(tmp_path / "own.jsonl", [pku_row(n, **unknown) for n in range(30)])
    with pytest.raises(
        InputError, match=r"no prompt is left .* is_response_0_safe \(of response_0 or chosen\)"
    ):
        run("--align.preference", "better", "--align.safety_offset", "1", "--stages", "pairs,align")
