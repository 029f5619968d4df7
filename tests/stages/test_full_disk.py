"""A disk that fills up at every write of a run: one line, status 3, and the next start goes on."""

import json
import subprocess
import sys

import pytest

from cann_jax import train
from cann_jax.command_line.errors import run_command
from tests.builders import ROOT
from tests.builders.runs import calibrated_changes, write_config

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
    scale = json.loads((folder / "tiny/calibrate/scale.json").read_text())
    return results, scale["scale"]


@pytest.mark.disk("24k")
def test_a_disk_that_is_full_at_every_write(command, small_disk, tmp_path):
    size, failures = 24.0, []
    while True:
        status, lines = command(small_disk)
        if status == 0:
            break
        assert (status, len(lines)) == (3, 1), (size, lines)
        assert "disk full while writing" in lines[0] and "kept" in lines[0], lines
        assert not list(small_disk.rglob("*.partial"))
        failures.append(lines[0].partition("writing ")[2].partition(";")[0].removeprefix(f"{small_disk}/"))
        size *= FREED
        subprocess.run(["mount", "-o", f"remount,size={round(size)}k", str(small_disk)], check=True)
        assert size < 1 << 20, "the run should have ended"
    print(f"{len(failures)} failures, up to {size:.0f} KiB: {failures}")
    stages = {name.split("/")[1] for name in failures if name.count("/") > 1}
    assert len(failures) >= 8 and len(stages) >= 3, failures
    status, _ = command(tmp_path / "undisturbed")
    assert status == 0 and outcome(small_disk) == outcome(tmp_path / "undisturbed")


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
