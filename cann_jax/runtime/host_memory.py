"""How much memory this machine has, and how much of it this process may still take."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
# What limits a control group, what it has, and what of that Linux takes back first: of version 2, and of 1.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def total() -> int:
    """Return the bytes that the machine has, or that its container, pod or job may take."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _limits())])


def available() -> int | None:
    """Return the bytes that this process may still take; None where the system does not tell."""
    try:
        machine = _numbers(Path("/proc/meminfo"))
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    found = [1024 * (machine["MemAvailable"] + machine["SwapFree"]), *(left for _, left in _limits())]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(found if limit == resource.RLIM_INFINITY else [*found, limit - taken])


def _limits() -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that this process is in, and what is left of it."""
    for folder in _groups():
        for limit, used, reclaimed in _FILES:
            try:
                most, has = int((folder / limit).read_text()), int((folder / used).read_text())
                yield most, most - has + _numbers(folder / "memory.stat").get(reclaimed, 0)
            except (OSError, ValueError):  # not of this version, or "max"
                continue


def _groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups, and of those that they are in."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _GROUPS / controllers
            own = root / path.lstrip("/")
            yield from (each for each in (own, *own.parents) if each.is_relative_to(root))


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows}
