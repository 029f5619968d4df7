"""Fixtures that several folders share, the order of the tests, and one cache of compiled programs for all."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.builders import ROOT
from tests.builders.processes import end_all, quick_flags

# Before JAX starts, and for the processes that tests start. What one of them compiled serves all others.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tiny programs run for milliseconds, and compiling them takes most of the suite's time: a training step
# compiles in 1 s of CPU time this way and in 8 s at XLA's defaults. XLA_FLAGS="" tests at the defaults.
os.environ.setdefault("XLA_FLAGS", quick_flags())

import jax
import pytest

from tests.builders.models import language_model, save_tiny

# Cheap folders first, so that a mistake shows early. The longest files are not in the last folder, where
# one worker would be left with one of them.
ORDER = (
    *(
        "files",
        "config",
        "command_line",
        "",
        "docs",
        "run",
        "data",
        "analysis",
        "reporting",
        "judging",
        "core",
        "scorers",
    ),
    *("sampling", "models", "training", "dry_run", "tools", "launch", "runtime", "stages"),
)
# All that these folders test needs a model; elsewhere a test says so by a fixture, or by the marker "model".
OF_MODELS = ORDER[ORDER.index("sampling") :]
MODEL_FIXTURES = {"tiny_model", "finished", "prealigned"}

MAPPED_REGIONS = 25_000


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A Hugging Face folder: a tiny random Llama, a tokenizer whose pad is its eos, and a chat template."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    """The same, loaded in float32: a LanguageModel, ready to sample and to score."""
    return language_model(tiny_folder)


@pytest.fixture
def small_disk(request, tmp_path) -> Iterator[Path]:
    """A file system of the size that ``@pytest.mark.disk("256k")`` asks for."""
    mount = tmp_path / "disk"
    mount.mkdir()
    size = request.node.get_closest_marker("disk").args[0]
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)  # a failed save may hold files open


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(autouse=True)
def few_compiled_programs():
    """Forget compiled programs before they fill the process's memory map: 65,530 regions are Linux's default,
    and beyond them XLA's compiler ends in a segmentation fault (it did after some 1,400 tests)."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPED_REGIONS:
        jax.clear_caches()
        gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _folder(item) in OF_MODELS or MODEL_FIXTURES.intersection(item.fixturenames):
            item.add_marker("model")
    items.sort(key=lambda item: (item.get_closest_marker("model") is not None, ORDER.index(_folder(item))))


def _folder(item: pytest.Item) -> str:
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    return folder if folder in ORDER else ""
