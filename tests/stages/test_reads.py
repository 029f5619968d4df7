"""That the pipeline's table is true: what a stage reads, it says; what it leaves, nobody reads altered."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.run.execution import plan, refuse_stale, upstream
from cann_jax.run.manifest import MANIFEST, OUTPUTS, SETTINGS, flattened
from cann_jax.run.pipeline import PIPELINE
from cann_jax.run.run import Run
from tests.builders import ROOT
from tests.builders.runs import STAGES


def test_stages_read_no_setting_that_the_table_does_not_name(finished, prealigned, calibrated, recorder):
    assert set(recorder.reads) >= {stage.name for stage in PIPELINE} - {"rounds", "experts"}
    assert len(recorder.reads["align"]) > 15  # it records
    assert not recorder.undeclared()


def test_every_setting_of_the_runs_is_read_by_a_stage_or_decides_none(
    finished, prealigned, calibrated, recorder
):
    """A key that the table names and no stage ever reads would make stages stale for nothing."""
    config, _ = prealigned
    settings = parse_run(["--config", config, "--align.pairs", "dataset"])[0]
    keys = {key for key, _ in flattened(as_json(settings))}
    read = set().union(*recorder.reads.values())
    # Sections that this run does not use, what only bad input or another choice reads, and what the check of
    # the prompts reads before the stages do.
    elsewhere = ("mesh.", "distributed.", "online.", "name", "run_dir", "evaluate.examples", "evaluate.also")
    unread = {key for key in keys - read if not key.startswith(elsewhere)}
    assert unread <= {
        "preferences.path", "preferences.prepared", "preferences.on_overlong", "preferences.on_bad_row",
        "preferences.dataset",
        "preferences.subset", "preferences.revision", "preferences.chosen_is", "preferences.heldout",
        "preferences.limit", "prompts.on_overlong", "prompts.next_turn", "prompts.limit", "prompts.train",
        "prompts.calibration", "prompts.heldout", "model.path", "model.revision", "model.adapter",
        "prompts.max_tokens", "sample.allow_changed_reference", "calibrate.power",
    }  # fmt: skip


@pytest.fixture
def run(copy, monkeypatch) -> Run:
    """The finished run in a folder of its own."""
    flags = ["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")]
    return Run(parse_run(flags)[0])


def readers(run: Run, name: str) -> list:
    return [stage for stage in run.stages if name in upstream(run, (stage,))]


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def readable_with(path: Path, place: int) -> bool:
    """Return whether a table can be read, as another, after that."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    before = pq.read_table(path)
    try:
        after = pq.read_table(pa.BufferReader(bytes(data)))
        return after.schema == before.schema and after != before
    except (OSError, pa.ArrowException):
        return False


def test_every_output_altered_is_refused_by_every_stage_behind_it(run):
    """One byte of one file at a time, over all files that the manifests name."""
    seen = 0
    for stage in run.stages:
        folder = Path(run.folder / stage.name)
        for name in read_json(folder / MANIFEST)[OUTPUTS]:
            path = folder / name
            original, times = path.read_bytes(), path.stat()
            flipped(path, path.stat().st_size // 2)
            for reader in readers(run, stage.name):
                with pytest.raises(
                    InputError, match=f"reads stage '.*{name} was altered after the stage ended"
                ):
                    refuse_stale(run, (reader,))
            states = {each.stage.name: each.state for each in plan(run, run.stages)}
            assert states[stage.name].state == "altered" and not states[stage.name].keeps_work
            path.write_bytes(original)
            seen += 1
            assert times.st_size == path.stat().st_size
    assert seen > 15
    assert all(each.fresh for each in plan(run, run.stages))


def test_no_stage_reads_a_file_that_is_no_output(run, copy, again):
    """Everything else that stages leave is deleted, and each stage runs again alone."""
    for stage in run.stages:
        folder = Path(run.folder / stage.name)
        outputs = read_json(folder / MANIFEST)[OUTPUTS]
        for path in sorted(folder.rglob("*"), reverse=True):
            name = str(path.relative_to(folder))
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and name not in outputs and name not in (MANIFEST, SETTINGS):
                path.unlink()
    for stage in ("score", "dual", "align", "evaluate"):
        before = (copy / f"runs/tiny/{stage}/{MANIFEST}").read_bytes()
        (copy / f"runs/tiny/{stage}/{MANIFEST}").unlink()
        again("--stages", stage)
        assert (copy / f"runs/tiny/{stage}/{MANIFEST}").read_bytes() != b"" != before


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_an_altered_manifest_is_seen(run, stage):
    """Every tenth byte: the stage or one behind it is stale, or the file is corrupt; never another answer."""
    folder = Path(run.folder / stage)
    path, wrong = folder / MANIFEST, []
    original = path.read_bytes()
    for place in range(0, len(original), 10):
        flipped(path, place)
        try:
            states = [each.fresh for each in plan(run, run.stages)]
        except InputError as error:
            assert "\n" not in str(error)
            states = [False]
        # A size or a time that no longer fits has the content looked at, which is as it was.
        text = original.decode(errors="replace")
        line = text[: place + 1].splitlines()[-1] if text[: place + 1].splitlines() else ""
        harmless = '"bytes"' in line or '"modified"' in line or not original[place : place + 1].strip()
        harmless |= place > original.index(
            b'"compute": {'
        )  # the last entry: what it has cost decides nothing
        if all(states) and not harmless:
            wrong.append((place, line))
        path.write_bytes(original)
    assert not wrong


def test_before_a_verdict_the_content_is_hashed_whatever_its_time_says(run, again):
    """Bit rot keeps a file's size and time of change."""
    scores = Path(run.folder / "score/scores.parquet")
    times = scores.stat().st_atime_ns, scores.stat().st_mtime_ns
    flipped(scores, next(n for n in range(scores.stat().st_size // 2, 0, -1) if readable_with(scores, n)))
    os.utime(scores, ns=times)
    assert "evaluate: done already" in again("--stages", "evaluate")
    assert "score: done already" in again("--stages", "score")
    with pytest.raises(InputError, match=r"outputs\.scores\.parquet was altered"):
        again("--stages", "evaluate", "--verify")
    Path(run.folder / "evaluate" / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"'evaluate' reads stage 'score', which is stale: outputs\.scores"):
        again("--stages", "evaluate")


def test_multipliers_set_to_zero_are_not_used(run, again, copy):
    dual = copy / "runs/tiny/dual/dual.json"
    text = dual.read_text()
    values = read_json(epath.Path(dual))
    for multiplier in values["multipliers"]:
        text = text.replace(str(multiplier), "0.0")
    dual.write_text(text)
    with pytest.raises(
        InputError, match=r"reads stage 'dual', which is stale: outputs\.dual\.json was altered"
    ):
        again("--stages", "evaluate")
    said = again()
    assert "dual: outputs.dual.json was altered" in said and "align: done already" in said
    assert read_json(epath.Path(dual)) == values
    shutil.rmtree(copy / "runs")
    assert ROOT.exists()
