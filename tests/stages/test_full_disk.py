"""A disk that fills up at every write of a run: one line, status 3, and the next start goes on."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cann_jax import reward, train
from cann_jax.command_line.errors import run_command
from tests.builders import ROOT
from tests.builders.runs import calibrated_changes, write_config, write_score_model_config

# What Python cannot raise, it prints with a traceback.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
FREED = 1.25  # the disk grows by this factor after each failure


@pytest.fixture
def command(tmp_path, tiny_folder, monkeypatch, capsys):
    """Run the calibrated run in this process; returns its status and its lines of error."""
    monkeypatch.chdir(ROOT)
    config = write_config(tmp_path, tiny_folder, **calibrated_changes(tmp_path))

    def run(folder) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["train", "--config", config, "--run_dir", str(folder)])
        status = run_command(train.main)
        return status, [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]

    return run


def outcome(folder):
    results = json.loads((folder / "tiny/evaluate/results.json").read_text())
    del results["summary"]["compute"]  # its seconds
    scale = json.loads((folder / "tiny/calibrate/scale.json").read_text())
    return results, scale["scale"]


@pytest.fixture
def until_it_ends(small_disk, caplog):
    """Start a command again on a disk of ``size`` KiB that grows; returns what each failure was writing."""

    def until_it_ends(command: Callable[[Path], tuple[int, list[str]]], size: float) -> list[str]:
        failures = []
        while True:
            status, lines = command(small_disk)
            gc.collect()  # asyncio tells then of what failed in the background
            assert not [record for record in caplog.records if record.name in ("asyncio", "absl")]
            if status == 0:
                print(f"{len(failures)} failures, up to {size:.0f} KiB: {failures}")
                return failures
            assert (status, len(lines)) == (3, 1), (size, lines)
            assert "disk full while writing" in lines[0] and "kept" in lines[0], lines
            assert not list(small_disk.rglob("*.partial"))
            failures.append(
                lines[0].partition("writing ")[2].partition(";")[0].removeprefix(f"{small_disk}/")
            )
            size *= FREED
            subprocess.run(["mount", "-o", f"remount,size={round(size)}k", str(small_disk)], check=True)
            assert size < 1 << 20, "the run should have ended"

    return until_it_ends


@pytest.mark.disk("24k")
def test_a_disk_that_is_full_at_every_write(command, small_disk, tmp_path, until_it_ends):
    failures = until_it_ends(command, 24.0)
    stages = {name.split("/")[1] for name in failures if name.count("/") > 1}
    assert len(failures) >= 8 and len(stages) >= 3, failures
    status, _ = command(tmp_path / "undisturbed")
    assert status == 0 and outcome(small_disk) == outcome(tmp_path / "undisturbed")


@pytest.mark.disk("4k")
def test_a_reward_models_disk_and_that_of_its_prepared_data(
    until_it_ends, small_disk, tmp_path, tiny_folder, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    config = write_score_model_config(tmp_path, tiny_folder, epochs=1, checkpoint_every=2)

    def command(folder: Path) -> tuple[int, list[str]]:
        places = ("--run_dir", f"{folder}/runs", "--preferences.prepared", f"{folder}/prepared")
        monkeypatch.setattr(sys, "argv", ["reward", "--config", config, *places])
        status = run_command(reward.main)
        return status, [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]

    failures = until_it_ends(command, 4.0)
    assert {name.split("/")[0] for name in failures} == {"runs", "prepared"}, failures
    status, _ = command(tmp_path / "undisturbed")
    results = [
        folder / "runs/judge/score_model/results.json" for folder in (small_disk, tmp_path / "undisturbed")
    ]
    assert status == 0 and results[0].read_text() == results[1].read_text()


def test_a_folder_that_became_read_only(command, tmp_path):
    """As root nothing is read-only but a file system."""
    folder = tmp_path / "runs"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not allowed here")
    try:
        (folder / "tiny").mkdir()
        (folder / "tiny/config.json").write_text("{}")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        status, (line,) = command(folder)
        assert status == 3 and "Read-only file system" in line, line
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
