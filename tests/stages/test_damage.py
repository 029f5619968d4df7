"""Damage to any file of a run's folder: it is said in one line, or changes nothing."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from cann_jax import report
from cann_jax.command_line.run_options import parse_run
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.reporting.finished_run import finished_run
from cann_jax.run.execution import altered_since, expected_of, plan
from cann_jax.run.folder import CONFIG
from cann_jax.run.manifest import MANIFEST, OUTPUTS, flattened, stage_state
from cann_jax.run.pipeline import NO_SETTINGS
from cann_jax.run.run import Run
from cann_jax.run.stages import holding
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


@pytest.fixture(params=["finished", "calibrated"])
def run(request, tmp_path, monkeypatch) -> Run:
    """A finished run in a folder of its own, as its next start sees it."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(request.getfixturevalue(request.param), tmp_path, dirs_exist_ok=True)
    flags = ["--config", str(tmp_path / "tiny.yaml"), "--run_dir", str(tmp_path / "runs")]
    return Run(parse_run(flags)[0])


def test_each_file_of_a_finished_run(run):
    folder = Path(run.folder)
    assert said_by_plan(run) == said_by_report(run) == ""
    outputs = outputs_of(folder)
    others = [path for path in files_of(folder) if path not in outputs and path.name != MANIFEST]
    assert len(outputs) > 15 and len(others) > 30
    for stage in run.stages:
        expected, writes = expected_of(run, stage), holding(stage.writes, run.config)
        here = folder / stage.name
        for path in sorted(path for path in outputs if here in path.parents):
            line = f"outputs.{path.relative_to(here)} was altered after the stage ended"
            for kind in DAMAGES:
                with damaged(path, kind):
                    state = stage_state(here, expected, writes)
                    assert state.state == "altered" and state.differences == (line,)
                    assert altered_since(run, stage) == (line,)
        for kind in DAMAGES:
            with damaged(here / MANIFEST, kind):
                said = said_by_plan(run), said_by_report(run)
            # The bit in the middle may be that of a time, where the content is looked at instead.
            assert all(said) or kind == "flipped"
            assert not any("\n" in line for line in said)
    for kind in DAMAGES:
        with ExitStack() as stack:
            for path in others:
                if path != folder / CONFIG:
                    stack.enter_context(damaged(path, kind))
            assert said_by_plan(run) == said_by_report(run) == ""
        with damaged(folder / CONFIG, kind):
            assert said_by_plan(run) == ""  # the next start writes it again
            assert said_by_report(run) or kind == "flipped"


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
        "sample/responses-000004-000008.parquet",
        "score/scores-000000-000004.parquet",
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
