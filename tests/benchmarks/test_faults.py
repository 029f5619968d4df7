"""The drills reach every stage, and see what differs."""

import json

from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import drilled
from benchmarks.faults import drills
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
