"""The report command: runs are reported again, other folders are refused in one line."""

import os
import shutil

import pytest
from etils import epath

from cann_jax.files.errors import InputError
from cann_jax.files.lock import sole_writer
from cann_jax.report import main
from cann_jax.reporting.finished_run import finished_run
from cann_jax.reporting.markdown import table
from cann_jax.run.manifest import LAYOUT
from cann_jax.run.standing import standing


@pytest.mark.parametrize("moved", [False, True])
def test_a_finished_run_is_reported_again_wherever_it_is(folder, tmp_path, capsys, moved):
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    main([str(folder.relative_to(tmp_path))])
    verdict = "safe: UNDECIDED. Asked +0.500, measured +0.600 [+0.500, +0.700] on 2 unseen prompts"
    assert capsys.readouterr().out.splitlines()[-1] == verdict
    text = (folder / "report.md").read_text()
    assert text.startswith("# elsewhere" if moved else "# trial")
    assert text.splitlines()[2] == f"**{verdict}**  "
    assert "one-sided bounds: lower +0.480, upper none, for +0.500; about 9 prompts would decide" in text
    assert "- 5 prompts kept from training: loss 0.700 → 0.600, calibration slope 0.900\n" in text
    assert "- stopped early: the weights are those after step 2 of 4\n" in text
    assert "- **warning**, after step 2 and last after step 4: the calibration slope is 0.31" in text
    assert "the run takes 1.5" in text and text.count("- before (") == 3
    assert (folder / "report.html").read_text().count(verdict.replace("+", "+")) == 1


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_at_work_tells_how_far_it_is_and_is_not_disturbed(folder, capsys):
    (folder / "sample").mkdir()
    for shard in ("000000-000064", "000064-000100"):
        (folder / f"sample/responses-{shard}.parquet").touch()
    with sole_writer(epath.Path(folder)):
        before = contents(folder)
        main([str(folder)])
        after = contents(folder)
    assert {path.name for path in after.keys() - before.keys()} == {"report.html", "report.md"}
    assert before.items() <= after.items()
    said = capsys.readouterr().out
    assert said.startswith(
        "trial: at work on sample, 100 prompts of responses done; 0 of 6 stages have ended; it is process "
        f"{os.getpid()} on "
    )
    # Whoever started train again got exit status 2, for there is a writer.
    wait = "Wait: another process is at work on sample, 100 prompts of responses done."
    assert f"next: {wait}" in said and "tart train again" not in said
    assert wait in (folder / "report.html").read_text() and wait in (folder / "report.md").read_text()
    main([str(folder)])
    said = capsys.readouterr().out
    assert said.startswith(
        "trial: 0 of 6 stages have ended; next is sample (100 prompts of responses done); nobody is at work; "
        "the same command goes on"
    )
    assert "next: Start train again with the same settings" in said


def test_a_training_that_was_cut_off_tells_where_it_goes_on(folder):
    run = finished_run(str(folder))
    ended = {stage.name for stage in run.stages} - {"align"}
    (folder / "align/manifest.json").unlink()
    (folder / "align/metrics.jsonl").write_text("{}\n" * 3)
    assert "next is align (3 of 4 steps done; it goes on from its first step); " in standing(run, ended).line
    for step in (1, 2):
        (folder / f"align/checkpoints/{step}").mkdir(parents=True)
    (folder / "align/checkpoints/3.orbax-checkpoint-tmp-1").mkdir()
    found = standing(run, ended)
    assert "next is align (3 of 4 steps done; it goes on after step 2); " in found.line
    assert found.at_work is None and standing(run, {*ended, "align"}) is None


def test_a_run_that_is_made_anew_is_told_and_not_refused(folder, capsys):
    """Another margin: dual is under way, and what follows it is still the former margin's."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"confidence": 0.95', '"confidence": 0.85'))
    with pytest.raises(InputError, match="'dual' is stale"):
        main([str(folder)])
    (folder / "dual/manifest.json").rename(folder / "dual/settings.json")
    (folder / "dual/reward").mkdir()
    (folder / "dual/reward/metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    main([str(folder)])
    said = capsys.readouterr().out
    assert "trial: 0 of 6 stages have ended" in said and "HOLDS" not in said


def test_all_folders_are_checked_before_the_first_report(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "config.json").unlink()
    with pytest.raises(InputError, match=r"other: is not a run's folder"):
        main([str(folder), str(other)])
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize("age, step", [("an older", -1), ("a newer", 1)])
def test_runs_of_other_versions_are_left_out(folder, tmp_path, capsys, age, step):
    """Even the configuration may have other keys there."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    manifest, config = other / "dual/manifest.json", other / "config.json"
    manifest.write_text(manifest.read_text().replace(f'"layout": {LAYOUT}', f'"layout": {LAYOUT + step}'))
    if step < 0:
        config.write_text(config.read_text().replace('"dual":', '"duel":'))
    main([str(folder), str(other)])
    told, *rest = capsys.readouterr().out.splitlines()
    made = f"made by {age} cann_jax (its files are of version {LAYOUT + step}, this one reads {LAYOUT})"
    assert told.startswith(f"left out: {other}: {made}; use that version, which ")
    assert rest[-1].startswith("safe: UNDECIDED") and not (other / "report.md").exists()
    with pytest.raises(InputError, match=rf"this one reads {LAYOUT}\); use that version"):
        main([str(other), str(other)])


@pytest.mark.parametrize(
    "name, old, new, stale",
    [
        ("dual/dual.json", "1.5", "2.5", r"'dual' is stale: outputs\.dual\.json was altered"),
        ("evaluate/aligned.parquet", "", "", r"'evaluate' is stale: outputs\.aligned\.parquet was altered"),
        ("dual/manifest.json", "0", "1", r"'dual' is stale: "),
        ("config.json", '"confidence": 0.95', '"confidence": 0.85', r"'dual' is stale: settings\.evaluate"),
        ("align/manifest.json", "{", "", r"align/manifest.json is corrupt; delete the folder"),
    ],
)
def test_no_report_of_altered_files(folder, name, old, new, stale):
    path = folder / name
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1) if old else b"PAR1")
    with pytest.raises(InputError, match=stale) as caught:
        main([str(folder)])
    assert "\n" not in str(caught.value) and not (folder / "report.md").exists()


@pytest.mark.parametrize(
    "content, match", [(None, "is not a run's folder"), ("{}", "is not the configuration"), ("{", "corrupt")]
)
def test_other_folders(tmp_path, content, match):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=match) as caught:
        main([str(tmp_path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, cell",
    [
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\\\|b"),
        ("a\n\n# b", "a # b"),
        ("a\x1b[2J", "a�[2J"),
        ("<img src=x>", "&lt;img src=x>"),
        ("![a](http://b)", r"![a]\(http://b)"),
    ],
)
def test_a_table_keeps_its_columns_whatever_a_name_holds(name, cell):
    row = f"| {cell} | [+0.1, +0.2] |"
    expected = f"| {cell} | asked |\n| --- | ---: |\n{row}"
    assert table((name, "asked"), [(name, "[+0.1, +0.2]")]) == expected
