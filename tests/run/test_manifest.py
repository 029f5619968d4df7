"""A stage's folder: unfinished, done, changed or altered; kept, cleared or refused."""

import json
import os
import shutil

import pytest
from etils import epath

from cann_jax.config.run import SampleConfig
from cann_jax.files.atomic import read_json, write_bytes_atomic
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file
from cann_jax.run import manifest
from cann_jax.run.manifest import (
    LAYOUT,
    begin,
    commit,
    commit_fingerprint,
    expectation,
    stage_state,
)


def expected(**settings):
    return expectation("sample", SampleConfig(**settings), {"model": "a" * 64})


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path) / "run" / "sample"


def finish(folder, want):
    begin(folder, want)
    write_bytes_atomic(folder / "shards" / "0", b"shard")
    write_bytes_atomic(folder / "table", b"table")
    commit(folder, want, ["table"])


def test_fresh_then_done(folder):
    want = expected()
    assert stage_state(folder, want).state == "unfinished"
    assert begin(folder, want) is False
    write_bytes_atomic(folder / "table", b"1")
    assert stage_state(folder, want).state == "unfinished"  # not committed yet
    commit(folder, want, ["table"])
    assert stage_state(folder, want) == manifest.StageState("done")
    made = read_json(folder / "manifest.json")
    assert (
        made["stage"] == "sample" and made["settings"]["stop"] == [] and made["inputs"] == {"model": "a" * 64}
    )
    table = folder / "table"
    assert made["outputs"].keys() == {"table"} and made["outputs"]["table"]["bytes"] == 1
    assert made["outputs"]["table"]["sha256"] == fingerprint_file(table)


def test_changed_names_each_key_with_old_and_new(folder):
    finish(folder, expected())
    want = expectation("sample", SampleConfig(responses=8, stop=("x",)), {"model": "b" * 64, "data": "c"})
    state = stage_state(folder, want)
    assert state.state == "changed"
    assert state.differences == (
        "settings.responses: 16 → 8",
        'settings.stop: [] → ["x"]',
        "inputs.model: aaaaaaaaaa… → bbbbbbbbbb…",
        'inputs.data: nothing → "c"',
    )


def test_unfinished_work_by_other_settings_is_changed(folder):
    begin(folder, expected())
    assert stage_state(folder, expected(responses=8)).differences == ("settings.responses: 16 → 8",)


def test_same_settings_keep_shards(folder):
    begin(folder, expected())
    write_bytes_atomic(folder / "shards" / "0", b"shard")
    assert begin(folder, expected()) is True
    assert (folder / "shards" / "0").read_bytes() == b"shard"


@pytest.mark.parametrize("committed", [False, True])
def test_other_settings_clear_everything(folder, tmp_path, committed):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    finish(folder, expected())
    (tmp_path / "run" / "sample" / "link").symlink_to(outside)
    if not committed:
        (folder / "manifest.json").unlink()
    assert begin(folder, expected(responses=8)) is False
    assert [child.name for child in folder.iterdir()] == ["settings.json"]
    assert (outside / "precious").exists()
    assert stage_state(folder, expected(responses=8)).state == "unfinished"


def test_parts_are_kept_and_nothing_else_of_their_names(folder):
    """A shard ``draws-0`` lies beside the part ``draws``; it is work by the settings that have changed."""
    finish(folder, expected())
    write_bytes_atomic(folder / "draws" / "settings.json", b"{}")
    write_bytes_atomic(folder / "draws-0", b"shard")
    assert begin(folder, expected(responses=8), parts=("draws*",)) is True
    assert sorted(child.name for child in folder.iterdir()) == ["draws", "settings.json"]
    assert (folder / "draws" / "settings.json").exists()
    assert stage_state(folder, expected(responses=8)).state == "unfinished"


def test_clearing_that_is_cut_off_goes_on(folder, monkeypatch):
    finish(folder, expected())

    def killed(self, missing_ok=False):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(folder, expected(responses=8))
    assert not (folder / "manifest.json").exists()
    assert stage_state(folder, expected(responses=8)).state == "changed"
    assert begin(folder, expected(responses=8)) is False
    assert not (folder / "shards").exists()


def test_missing_output_undoes_the_commit_and_keeps_the_rest(folder):
    finish(folder, expected())
    (folder / "table").unlink()
    state = stage_state(folder, expected())
    assert state.state == "altered" and state.differences == ("outputs.table is missing",)
    assert state.keeps_work and begin(folder, expected()) is True
    assert not (folder / "manifest.json").exists() and (folder / "shards" / "0").exists()


def test_begin_on_a_finished_stage_withdraws_the_commit(folder):
    finish(folder, expected())
    begin(folder, expected())
    assert stage_state(folder, expected()).state == "unfinished"


def test_settings_compare_as_json_does(folder):
    want = expectation("sample", {"targets": ("q", "v")}, {})
    begin(folder, want)
    write_bytes_atomic(folder / "shard", b"")
    assert begin(folder, want) is True
    assert stage_state(folder, want).state == "unfinished"


def test_a_folder_of_the_layout_before_is_made_anew(folder):
    """Its manifest holds a hash a file, and nothing of sizes."""
    finish(folder, expected())
    old = {**expected(), "layout": 2, "outputs": {"table": "c" * 64}}
    (folder / "manifest.json").write_text(json.dumps(old))
    state = stage_state(folder, expected(), ["table"])
    by = f"made by an older cann_jax (its files are of version 2, this one reads {LAYOUT})"
    assert state.state == "changed" and state.differences == (by,)
    assert commit_fingerprint(folder)
    assert begin(folder, expected()) is False


def test_foreign_files_are_refused_and_stay(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    for use in (begin, stage_state):
        with pytest.raises(InputError, match=r"did not make \(thesis\.txt\)"):
            use(folder, expected())
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_file_in_place_of_the_folder_is_refused(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("x")
    with pytest.raises(InputError, match="is a file where a stage's folder must be"):
        begin(folder, expected())


def test_cut_off_first_write_is_no_foreign_file(folder):
    folder.mkdir(parents=True)
    (folder / "settings.json.partial").write_text("{")
    assert begin(folder, expected()) is False
    assert stage_state(folder, expected()).state == "unfinished"


@pytest.mark.parametrize("name", ["settings.json", "manifest.json"])
@pytest.mark.parametrize("text", ['{"stage"', "3"])
def test_corrupt_record_names_file_and_mend(folder, name, text):
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    for use in (begin, stage_state):
        with pytest.raises(InputError, match=f"{name} is corrupt; delete the folder .* and start again"):
            use(folder, expected())


def test_commit_needs_its_outputs(folder):
    begin(folder, expected())
    with pytest.raises(FileNotFoundError, match="has no file 'table'"):
        commit(folder, expected(), ["table"])
    assert not (folder / "manifest.json").exists()


def altered(path, size_stays: bool) -> None:
    """Change a file's content, and time of change with it."""
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if size_stays else data + b"!")


@pytest.mark.parametrize("size_stays", [True, False])
def test_an_altered_output_is_seen_and_nothing_beside_it_is_trusted(folder, size_stays):
    finish(folder, expected())
    altered(folder / "table", size_stays)
    state = stage_state(folder, expected(), ["table"])
    assert state.differences == ("outputs.table was altered after the stage ended",)
    assert not state.keeps_work
    assert begin(folder, expected(), keep_work=state.keeps_work) is False
    assert not (folder / "shards").exists()


def test_an_added_output_is_seen(folder):
    finish(folder, expected())
    write_bytes_atomic(folder / "table-2", b"shard")
    state = stage_state(folder, expected(), ["table*"])
    assert state.differences == ("outputs.table-2 was added after the stage ended",)


def test_bit_rot_that_keeps_size_and_time_is_seen_by_verifying(folder):
    finish(folder, expected())
    table = folder / "table"
    times = os.stat(table).st_atime_ns, os.stat(table).st_mtime_ns
    altered(table, size_stays=True)
    os.utime(table, ns=times)
    assert stage_state(folder, expected(), ["table"]).state == "done"
    assert stage_state(folder, expected(), ["table"], verify=True).state == "altered"


def test_a_copied_folder_is_the_same_stage(folder, tmp_path):
    """Other times of change cost a look at the content, nothing more."""
    finish(folder, expected())
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert stage_state(copy, expected(), ["table"]).state == "done"
    assert commit_fingerprint(copy) == commit_fingerprint(folder)


def test_manifest_is_json_that_others_can_read(folder):
    finish(folder, expected())
    assert json.loads((folder / "manifest.json").read_text())["layout"] == manifest.LAYOUT
