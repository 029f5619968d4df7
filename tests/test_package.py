"""The package as it is installed: built into a wheel, unpacked elsewhere, and used in an empty folder."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cann_jax.command_line.run_options import parse_run
from cann_jax.files.errors import InputError
from cann_jax.files.shipped import shipped_configurations
from tests.builders import ROOT

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "cann_jax", "tools", "configs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel was installed; built from a copy, since builds leave files behind."""
    folder = tmp_path_factory.mktemp("package")
    for name in SOURCES:
        source, copy = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(build, cwd=folder / "source", check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def used(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script of the installed package."""
    command = [sys.executable, str(installed / "bin/cann-jax"), *arguments]
    given = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)


@pytest.mark.model
def test_the_quickstart_is_ready_in_an_empty_folder(installed, tmp_path):
    done = used(installed, tmp_path, "train", "--config", "quickstart", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "scorer relevance: " in done.stdout and "training: " in done.stdout
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_lists_those_that_there_are(installed, tmp_path):
    done = used(installed, tmp_path, "train", "--config", "quickstrat")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in ("./quickstrat", "quickstart_groups", "reward_hh"))


def test_the_wheel_carries_every_configuration_and_the_marker_of_its_types(installed):
    there = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert there and all((installed / "cann_jax" / path).read_bytes() for path in there)
    for name in ("py.typed", "scorers/templates", "reporting/templates/report.html"):
        assert (installed / "cann_jax" / name).exists()


@pytest.fixture
def distribution(installed) -> Distribution:
    (metadata,) = installed.glob("cann_jax-*.dist-info")
    return PathDistribution(metadata)


def test_no_requirement_is_named_twice(distribution):
    found = Counter(
        (need.name, str(sorted(need.extras)), str(need.marker))
        for need in map(Requirement, distribution.requires or ())
    )
    assert found and set(found.values()) == {1}


def test_only_a_path_means_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = shipped_configurations()["quickstart"].read_text(encoding="utf-8")
    Path("quickstart").write_text(source.replace("seed: 0", "seed: 7"))
    assert parse_run(["--config", "quickstart"])[0].seed == 0
    own = parse_run(["--config", "./quickstart"])[0]
    assert own.seed == 7 and own.prompts.train == "configs/prompts/quickstart_train.jsonl"
    with pytest.raises(InputError, match=r"--config: the package carries no configuration 'mine'"):
        parse_run(["--config", "mine"])


def test_files_of_a_named_configuration_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart_groups", "pecan_quickstart", "pod"):
        sources = parse_run(["--config", name])[0].prompts.sources().values()
        assert sources and all(Path(source).is_file() for source in sources)
