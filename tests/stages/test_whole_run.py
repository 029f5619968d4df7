"""What a whole run leaves, and what a second one does with it."""

import json
import re

import numpy as np
import pytest

from cann_jax.files.errors import InfeasibleError
from tests.builders.runs import STAGES, metrics

LEFT = [
    "config.json",
    "versions.json",
    "report.html",
    "report.md",
    *(f"{stage}/manifest.json" for stage in STAGES),
    "sample/responses-000000-000004.parquet",
    "sample/features-000000-000004.npy",
    "score/scores.parquet",
    "dual/dual.json",
    "dual/curve.parquet",
    "dual/dual.png",
    "align/weights",
    "align/metrics.jsonl",
    "align/health.json",
    "export/adapter/adapter_config.json",
    "export/adapter/README.md",
    "export/adapter/run.yaml",
    "evaluate/results.json",
    "evaluate/reference.parquet",
    "evaluate/aligned.parquet",
]


def results(folder):
    return json.loads((folder / "runs/tiny/evaluate/results.json").read_text())


def test_all_files_of_the_design_are_there(finished):
    missing = [name for name in LEFT if not (finished / "runs/tiny" / name).exists()]
    assert not missing


def test_results_hold_asked_predicted_measured_and_interval(finished):
    found = results(finished)
    assert (found["vowels"]["asked"], found["length"]["asked"]) == pytest.approx((0.02, 0.2), rel=1e-3)
    for name in ("vowels", "length", "reward"):
        row = found[name]
        low, high = row["interval"]
        assert low <= row["measured"] <= high
        assert row["measured"] == pytest.approx(row["after"] - row["before"], abs=1e-5)
    dual = json.loads((finished / "runs/tiny/dual/dual.json").read_text())
    # A forecast, made on prompts that were left out, may miss the margin; the plug-in dual may not.
    assert np.all(np.array(dual["predicted_improvement"]) >= np.array(dual["margins"]) - 1e-2)
    forecast = dual["chosen"]["forecast"]
    names = [label.partition("@")[0] for label in dual["constraints"]]
    each = dict(zip(names, forecast["improvement"], strict=True)) | {"reward": forecast["reward"]}
    assert each.keys() == {"vowels", "length", "reward"}
    for name, estimate in each.items():
        assert [found[name]["predicted"], found[name]["predicted_interval"]] == list(estimate.values())
    verdicts = {found[name]["certificate"]["verdict"] for name in names}
    expected = next((each for each in ("fails", "undecided") if each in verdicts), "holds")
    assert found["summary"]["verdict"] == expected


def test_reports_link_to_files_that_exist(finished):
    folder = finished / "runs/tiny"
    text, page = ((folder / name).read_text() for name in ("report.md", "report.html"))
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links == ["report.html", "dual/dual.png"] and text.count("- before (") == 3
    files = [link for link in re.findall(r'href="([^"#]+)"', page) if not link.startswith("data:")]
    assert all((folder / link).exists() for link in files)
    stages = [link.partition("/")[0] for link in files]
    assert stages == sorted(stages, key=STAGES.index) and {*stages} == {*STAGES}
    assert page.count('class="sample"') == 6
    for group in ("even", "odd"):
        assert f"of {group}: reference and aligned" in page


def test_training_saw_every_prompt_twice_and_no_batch_was_dropped(finished):
    assert [row["step"] for row in metrics(finished)] == [0, 1, 2, 3, 4]  # 2 · 12 prompts, 5 a step


def test_second_run_skips_every_stage(again):
    said = again()
    assert [stage for stage in STAGES if f"{stage}: done already" in said] == list(STAGES)


def test_a_moved_model_is_the_same_model(again, tiny_folder, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_folder)
    assert again("--model.path", str(moved), "--stages", "sample").startswith("sample: done already")


def test_another_margin_makes_dual_align_and_evaluate_anew(again, copy):
    said = again("--constraints.vowels.margin", "0.01")
    assert "sample: done already" in said and "score: done already" in said
    assert "dual: settings.constraints.vowels.margin: 0.02 → 0.01" in said
    assert "align: inputs.dual:" in said and "evaluate: inputs.align:" in said
    assert results(copy)["vowels"]["asked"] == pytest.approx(0.01, rel=1e-3)


def test_margin_out_of_reach_stops_before_training(again, copy):
    align = copy / "runs/tiny/align"
    before = {path: path.stat().st_mtime_ns for path in align.rglob("*")}
    with pytest.raises(InfeasibleError, match=r"vowels 5 \(largest 0\.\d+\)") as caught:
        again("--constraints.vowels.margin", "5")
    assert caught.value.exit_status == 4
    assert {path: path.stat().st_mtime_ns for path in align.rglob("*")} == before
    assert not (copy / "runs/tiny/dual/manifest.json").exists()


def test_dry_run_writes_nothing_and_says_what_it_needs(again, copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    said = again("--dry_run", "--name", "other")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert "prompts.train: 12 kept, 0 dropped" in said and "training: 5 steps" in said
    assert "\nnothing was computed\n" in said  # there is no folder that would be as it was
    assert "runs/tinyisasitwas" in "".join(again("--dry_run").split())  # lines are cut anywhere
    for program in ("sampling", "reference log-probs", "training step"):
        assert re.search(rf"{program} +│ +\d", said)
