"""The stage of preference data: what it leaves and says, and that it is skipped by content, not by place."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from cann_jax import train
from cann_jax.files.errors import InputError
from tests.builders import ROOT
from tests.builders.preferences import pku_row, write_lines
from tests.builders.runs import write_config


@pytest.fixture
def stage(tmp_path, tiny_folder, monkeypatch, capsys):
    """Run the stage on a file; returns what was printed."""
    monkeypatch.chdir(ROOT)

    def stage(file, **changes) -> str:
        section = {"dataset": "local", "on_overlong": "error", "path": str(file), "heldout": 0.3} | changes
        section["prepared"] = str(tmp_path / "prepared")
        config = write_config(tmp_path, tiny_folder, preferences=section)
        train.main(["--config", config, "--stages", "pairs"])
        return capsys.readouterr().out

    return stage


def tables(tmp_path) -> dict:
    folder = tmp_path / "runs/tiny/pairs"
    return {part: pq.read_table(folder / f"{part}.parquet") for part in ("train", "heldout")}


def rows() -> list[dict]:
    odd = pku_row(90, is_response_0_safe=True, is_response_1_safe=False), pku_row(91, response_1="")
    return [*(pku_row(n) for n in range(30)), *odd]


def test_tables_counts_and_the_list_of_contradictions(stage, tmp_path):
    said = stage(write_lines(tmp_path / "own.jsonl", rows()))
    folder = tmp_path / "runs/tiny/pairs"
    assert sum(table.num_rows for table in tables(tmp_path).values()) == 32
    train_rows = tables(tmp_path)["train"].num_rows
    assert f"train: {train_rows} of {train_rows} pairs; {train_rows} say which is better" in said
    assert ": 1 empty responses" in said and ": 1 contradictory labels" in said and "pairs: ! " not in said
    assert "columns not read" not in said
    listed = [json.loads(line) for line in (folder / "contradictory.jsonl").read_text().splitlines()]
    assert [row["prompt"]["id"] for row in listed] == ["own.jsonl:31"]


def test_labels_the_wrong_way_round_are_warned_of(stage, tmp_path):
    flags = {"is_response_0_safe": True, "is_response_1_safe": False}
    said = stage(write_lines(tmp_path / "own.jsonl", [pku_row(n, **flags) for n in range(30)]))
    for part, table in tables(tmp_path).items():
        count = table.num_rows
        assert f"{part}: {count} contradictory labels" in said
        assert f"{count} of the {count} pairs in which one response alone is safe\n" in said
        assert f"pairs: ! {part}: most labels of which response is safe contradict" in said


def test_only_kept_pairs_are_counted(stage, tmp_path):
    """The dropped ones are too long, and one of them has contradictory labels."""
    long = {"response_1": "word " * 900, "is_response_0_safe": True, "is_response_1_safe": False}
    every = [pku_row(n, margin=n, **(long if n % 2 else {})) for n in range(40)]
    said = stage(write_lines(tmp_path / "own.jsonl", every), on_overlong="drop")
    found = tables(tmp_path)["train"]
    labels = f"{found.num_rows} say which is better, {found.num_rows} which is safer, {found.num_rows} name"
    assert re.search(rf"train: {found.num_rows} of \d+ pairs; {labels} harm categories", said)
    assert "pairs: columns not read: margin\n" in said and "contradictory" not in said
    assert not (tmp_path / "runs/tiny/pairs/contradictory.jsonl").read_text()


def test_done_already_wherever_the_file_lies(stage, tmp_path):
    path = write_lines(tmp_path / "own.jsonl", rows())
    stage(path)
    shutil.move(path, tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere/own.jsonl"
    elsewhere.parent.mkdir()
    shutil.move(tmp_path / "moved", elsewhere)
    assert "pairs: done already" in stage(elsewhere)
    assert "max_tokens: 512 → 300" in stage(elsewhere, max_tokens=300)
    write_lines(elsewhere, rows()[1:])
    assert "pairs: inputs.preferences" in stage(elsewhere)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"path": None}, "preferences.path is missing"),
        ({"heldout": 1.0}, "preferences.heldout is 1.0; it must be a finite number above 0 and below 1"),
        ({"max_tokens": 0}, "preferences.max_tokens is 0"),
        ({"dataset": "pku"}, "preferences.dataset is 'pku'; it must be one of"),
    ],
)
def test_bad_settings(stage, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        stage(tmp_path / "own.jsonl", **changes)
