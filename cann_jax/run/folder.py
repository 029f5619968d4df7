"""A run's folder: who may write there, and the configuration and versions that it was last started with."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from etils import epath

import cann_jax
from cann_jax.files.atomic import write_json
from cann_jax.files.errors import InputError
from cann_jax.files.lock import LOCK, sole_writer
from cann_jax.files.paths import reached
from cann_jax.runtime import distributed

CONFIG = (
    "config.json"  # the last configuration that the run was started with; also marks the folder as a run's
)
# Of the programs that it was last started with, and its devices; in a stage's folder, of what ended it.
VERSIONS = "versions.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def check_folder(folder: epath.Path) -> None:
    """Raise InputError if a run's folder cannot be read, or holds files that no run made."""
    with reached(folder, "run_dir"):
        if folder.exists() and not folder.is_dir():
            raise InputError(
                f"{folder} is a file where the run's folder must be; set another name or run_dir"
            )
        present = sorted(child.name for child in folder.iterdir()) if folder.exists() else []
        present = [name for name in present if not name.startswith(LOCK)]
    if present and not any(name.startswith(CONFIG) for name in present):
        raise InputError(
            f"{folder} holds files that this program did not make ({', '.join(present[:3])}); "
            "set another name or run_dir"
        )


@contextlib.contextmanager
def open_folder(folder: epath.Path, config: Any, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make a run's folder, with the configuration in it, and be its only writer.

    ``check`` is called as such, and before the configuration there is replaced: what it refuses leaves a run
    as it was, with a configuration that fits its stages.

    Raises:
        InputError: It is another program's, another run writes there, or a process cannot write it or does
            not see it.
    """
    check_folder(folder)
    with contextlib.ExitStack() as stack:
        with reached(folder, "run_dir"):
            distributed.check_writable(folder / CONFIG)
            if distributed.is_first():
                stack.enter_context(sole_writer(folder))
        check()
        with reached(folder, "run_dir"):
            write_json(folder / CONFIG, config)
            write_json(folder / VERSIONS, versions())
            distributed.check_shared(folder / CONFIG)
        yield


def versions() -> dict[str, str]:
    """Return the versions of what computes a run's numbers, and the devices that it runs on."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    own = {"cann_jax": cann_jax.__version__, "python": platform.python_version()}
    commit = commit_of(Path(cann_jax.__file__).parents[1])
    return own | ({"commit": commit} if commit else {}) | packages | {"devices": devices}


def commit_of(checkout: Path) -> str | None:
    """Return the commit that a checkout of git, or a worktree, was last set to; None where there is none."""
    git = checkout / ".git"
    try:
        if git.is_file():
            git = checkout / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name, shared = head.removeprefix("ref: "), git / "commondir"
        common = git / shared.read_text().strip() if shared.exists() else git
        if (common / name).exists():
            return (common / name).read_text().strip()
        packed = [line.split() for line in (common / "packed-refs").read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return None
    return next((words[0] for words in packed if words[1:] == [name]), None)
