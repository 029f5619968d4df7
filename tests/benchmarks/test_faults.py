"""The drills reach every stage, see what differs, and are not repeated."""

import argparse
import json

from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import drilled
from benchmarks.faults import drills, run_drills, unknown
from cann_jax.run.pipeline import PIPELINE, SCORE_MODEL_PIPELINE


def test_every_stage_of_both_pipelines_is_drilled(tmp_path):
    stages = {f"kill:{stage.name}" for stage in (*PIPELINE, *SCORE_MODEL_PIPELINE)}
    assert drills(drilled(tmp_path)).keys() == stages | {"lost", "disk", "hang"}


def test_what_differs_is_seen(tmp_path):
    row = {"step": 0, "loss": 0.5, "tokens_per_second": 9.0}
    for name, changes in (("whole", {}), ("same", {"tokens_per_second": 8.0}), ("other", {"loss": 0.25})):
        stage = tmp_path / name / "align"
        stage.mkdir(parents=True)
        outputs = ("metrics.jsonl", "health.json")
        (stage / "manifest.json").write_text(json.dumps({"outputs": {name: {} for name in outputs}}))
        (stage / "metrics.jsonl").write_text(json.dumps(row | changes) + "\n")
        (stage / "health.json").write_text(name if changes.get("loss") else "{}")
    whole = tmp_path / "whole"
    assert differences(tmp_path / "same", whole, ["align"]) == []
    assert differences(tmp_path / "other", whole, ["align"]) == ["align/health.json", "align/metrics.jsonl"]
    (tmp_path / "same/align/manifest.json").unlink()
    assert differences(tmp_path / "same", whole, ["align"]) == ["align/not finished"]


def test_a_drill_is_repeated_with_another_seed_or_after_it_was_skipped(tmp_path):
    ran, skipped = [], [{"skipped": "no disk"}]
    ended = {"sent": "no room", "status": 3, "lost": 0.0, "said": "", "differed": []}

    def fill(number: int, seed: int) -> dict:
        ran.append((number, seed))
        return skipped.pop() if skipped else ended

    for seed in (0, 0, 0, 1):
        given = argparse.Namespace(drills=["disk"], times=2, seed=seed, results=tmp_path)
        run_drills({"disk": fill}, given)
    assert ran == [(0, 0), (1, 0), (0, 0), (0, 1), (1, 1)]
    assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == 5
    page = (tmp_path / "faults.md").read_text()
    assert "| `disk` | 4 | 4 × no room: 3 |" in page and "skipped" not in page


def test_names_of_no_drill_are_told():
    assert unknown(["kill", "kill:align", "dsk", "lost"], ["kill:align"]) == "'dsk'"
