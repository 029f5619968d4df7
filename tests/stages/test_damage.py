"""Damage to any file of a run's folder: it is said in one line, or changes nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cann_jax import report
from cann_jax.command_line.run_options import parse_run
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.reporting.finished_run import finished_run
from cann_jax.run.execution import plan
from cann_jax.run.folder import CONFIG
from cann_jax.run.manifest import MANIFEST, OUTPUTS, flattened
from cann_jax.run.pipeline import NO_SETTINGS
from cann_jax.run.run import Run
from tests.builders import ROOT
from tests.builders.damage import DAMAGES, changed, damaged
from tests.builders.runs import saved_weights


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def outputs_of(folder: Path) -> set[Path]:
    manifests = folder.glob(f"*/{MANIFEST}")
    return {path.parent / name for path in manifests for name in read_json(path)[OUTPUTS]}


def said_by_plan(run: Run) -> str:
    """Return what the next start would say of what is not fresh."""
    try:
        planned = plan(run, run.stages)
    except InputError as error:
        return str(error)
    return "; ".join(f"{each.stage.name}: {each.state.differences}" for each in planned if not each.fresh)


def said_by_report(run: Run) -> str:
    """Return why there is no report; if there is one, what its configuration has that the run's has not."""
    try:
        found = finished_run(str(run.folder))
    except InputError as error:
        return str(error)
    ours, theirs = (dict(flattened(as_json(each.config))) for each in (run, found))
    different = {key for key in ours if ours[key] != theirs.get(key) and not key.startswith(NO_SETTINGS)}
    return ", ".join(different)


@pytest.mark.parametrize("which", ["finished", "calibrated"])
def test_each_file_of_a_finished_run(which, request, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shutil.copytree(request.getfixturevalue(which), tmp_path, dirs_exist_ok=True)
    flags = ["--config", str(tmp_path / "tiny.yaml"), "--run_dir", str(tmp_path / "runs")]
    run = Run(parse_run(flags)[0])
    folder = Path(run.folder)
    assert said_by_plan(run) == said_by_report(run) == ""
    outputs, unseen = outputs_of(folder), []
    for path in files_of(folder):
        name, stage = path.relative_to(folder), path.relative_to(folder).parts[0]
        for kind in DAMAGES:
            with damaged(path, kind):
                start, shown = said_by_plan(run), said_by_report(run)
            assert "\n" not in start + shown
            if path in outputs:
                line = f"outputs.{path.relative_to(folder / stage)} was altered after the stage ended"
                seen = (
                    f"{stage}: ('{line}" in start and f"stage {stage!r} is stale: {line}; start tr" in shown
                )
            elif path.name == MANIFEST and len(name.parts) == 2:
                # The byte in the middle may be that of a time, where the content is looked at instead.
                seen = bool(start and shown) or kind == "flipped"
            elif path.name == CONFIG and len(name.parts) == 1:
                # The next start writes it again.
                seen = start == "" and (bool(shown) or kind == "flipped")
            else:
                seen = start == shown == ""
            if not seen:
                unseen.append((str(name), kind, start, shown))
    assert not unseen
    assert len(outputs) > 15


def flip(path: Path) -> None:
    path.write_bytes(changed(path.read_bytes(), "flipped"))


def test_what_is_no_output_changes_nothing(copy, again, capsys):
    folder = copy / "runs/tiny"
    outputs = outputs_of(folder)
    others = [path for path in files_of(folder) if path not in outputs and path.name != MANIFEST]
    assert len(others) > 30
    for path in others:
        flip(path)
    said = again()
    assert "computed again" not in said and "evaluate: done already" in said
    report.main([str(folder)])
    assert capsys.readouterr().out.splitlines()[-1] in said


def test_what_a_killed_run_left_is_not_trusted_where_it_was_damaged(finished, copy, again):
    """Samples, scores, the reference's log-probs and the newest checkpoint, each with one bit flipped."""
    folder = copy / "runs/tiny"
    for stage in ("sample", "score", "align"):
        (folder / stage / MANIFEST).unlink()
    damaged = [
        "sample/responses-00001.parquet",
        "score/scores-00000.parquet",
        "align/reference-00000.parquet",
    ]
    for name in damaged:
        flip(folder / name)
    newest = folder / "align/checkpoints/5"
    flip(max(files_of(newest), key=lambda path: path.stat().st_size))
    rows = folder / "align/metrics.jsonl"
    rows.write_text(rows.read_text().replace('loss": 0.', 'loss": 1.', 1))
    said = again("--stages", "sample,score,dual,align")
    for name in damaged:
        assert f"{folder / name} or its .sha256 was altered or cut off; it is made again" in said
    assert said.count("it is made again") == len(damaged)
    assert "damaged checkpoint deleted (that after step 5: " in said and "align: resumed after step 4" in said
    assert "metrics.jsonl was damaged: of 4 steps, the rows of 0 are lost and those of others may" in said
    duals = [json.loads((run / "dual/dual.json").read_text()) for run in (folder, finished / "runs/tiny")]
    assert duals[0]["multipliers"] == duals[1]["multipliers"]
    ours, theirs = (saved_weights(run / "align/weights") for run in (folder, finished / "runs/tiny"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
