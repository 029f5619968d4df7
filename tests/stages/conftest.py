"""One undisturbed run that several tests look at."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cann_jax import train
from tests.builders import ROOT, toy_hook
from tests.builders.recording import Recorder
from tests.builders.runs import calibrated_changes, prealigned_changes, write_config
from tests.builders.secrets import SECRETS


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    """What the stages of the session's runs read of their configurations."""
    return Recorder()


@contextlib.contextmanager
def at_root_with_secrets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_folder, recorder) -> Path:
    """The folder of a configuration ``tiny.yaml`` whose run has ended; look, do not touch."""
    folder = tmp_path_factory.mktemp("finished")
    with at_root_with_secrets(), recorder.recording():
        train.main(["--config", write_config(folder, tiny_folder)])
    return folder


@pytest.fixture(scope="session")
def prealigned(tiny_folder, tmp_path_factory, recorder):
    """The whole of PeCAN on a data set's 30 pairs: π_r and π_g are trained inside the run."""
    folder = tmp_path_factory.mktemp("prealigned")
    config = write_config(folder, tiny_folder, **prealigned_changes(folder))
    with recorder.recording():
        train.main(["--config", config, "--align.pairs", "dataset"])
    return config, folder / "runs/tiny"


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory, tiny_folder, recorder) -> Path:
    """As ``finished``, of a run that forecasts from features, scales its step and exports the adapter.

    ``toy_hook`` has noted its steps.
    """
    folder = tmp_path_factory.mktemp("calibrated")
    with at_root_with_secrets(), recorder.recording():
        config = write_config(folder, tiny_folder, **calibrated_changes(folder))
        train.main(["--config", config, "--on_step", f"{toy_hook.__name__}:note"])
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


@pytest.fixture
def copied(calibrated, tmp_path, monkeypatch) -> tuple[Path, list[str]]:
    """A copy of the calibrated run's folder, and the flags that use it."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(calibrated, tmp_path, dirs_exist_ok=True)
    return tmp_path, ["--config", str(tmp_path / "tiny.yaml"), "--run_dir", str(tmp_path / "runs")]
