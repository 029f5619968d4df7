"""Fixtures that several rooms share, the order of the rooms, and one cache of compiled programs for all."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Before JAX starts. What one test or an earlier run compiled serves the processes that others start.
CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.builders import save_tiny  # noqa: E402

# Cheap rooms first, so that a mistake shows early; whole runs last.
ORDER = (
    *("files", "config", "command_line", "core", "data", "run", "scorers", "analysis", ""),
    *("models", "sampling", "training", "dry_run", "runtime", "stages", "launch"),
)


MAPPED_REGIONS = 25_000


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A Hugging Face folder: a tiny random Llama, a tokenizer whose pad is its eos, and a chat template."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


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
    subprocess.run(["umount", str(mount)], check=True)


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
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    room = path.relative_to(Path(__file__).parent).parts[0]
    return ORDER.index(room if room in ORDER else "")
