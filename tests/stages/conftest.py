"""One undisturbed run that several tests look at."""

import shutil
from pathlib import Path

import pytest

from cann_jax import train
from tests.stages.setting import ROOT, write_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_folder) -> Path:
    """The folder of a configuration ``tiny.yaml`` whose run has ended; look, do not touch."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        train.main(["--config", write_config(folder, tiny_folder)])
    return folder


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run's folder, and what ``--run_dir`` must say to use it."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def again(copy, capsys):
    """Run the copy again with further flags; returns what was printed."""

    def again(*flags: str) -> str:
        capsys.readouterr()
        train.main(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs"), *flags])
        return capsys.readouterr().out

    return again
