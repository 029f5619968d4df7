"""A disk that is full at a random write; after room is made, the same command goes on."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.drills.kill import last_line, pages
from benchmarks.drills.outcome import differences
from benchmarks.drills.runs import Drilled, processor, run

FULL = 3
LEAST = 32 << 10  # bytes; the run's configuration and first shard do not fit
ROOM = "1g"


def fill(drilled: Drilled, number: int, seed: int) -> dict[str, Any]:
    """Run drill ``number``, and return what happened, or why it was skipped."""
    draw, whole = random.Random(f"{seed} disk {number}"), drilled.whole
    size = draw.randrange(LEAST, sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()))
    mount = drilled.folder / "disk"
    mount.mkdir(exist_ok=True)
    if mount.is_mount():  # by a drill that was killed
        _unmount(mount)
    try:
        _mount(mount, f"size={size}")
    except (OSError, subprocess.CalledProcessError):
        return {"skipped": "mounting a small disk is not allowed here"}
    try:
        return _filled(drilled, mount, size)
    finally:
        _unmount(mount)


def _filled(drilled: Drilled, mount: Path, size: int) -> dict[str, Any]:
    calm = json.loads((drilled.folder / "whole.json").read_text())["processor"]
    calm += drilled.undisturbed(drilled.stages[0])["start"]
    folder = mount / drilled.name
    with processor() as spent:
        status, said = run(drilled, mount)
        kept = _commits(folder)
        _mount(mount, f"remount,size={ROOM}")
        ended = run(drilled, mount)
    differ = differences(folder, drilled.whole, drilled.stages) + pages(said)
    if status != FULL:
        differ.append(f"status {status}")
    if ended[0]:
        differ.append(f"started again: status {ended[0]}: {last_line(ended[1])}")
    now = _commits(folder)
    differ += [f"{name} was computed again" for name, when in kept.items() if now.get(name) != when]
    return {
        "sent": "no room", "size": size, "status": status, "stage": [*drilled.stages, "report"][len(kept)],
        "said": last_line(said), "lost": max(spent[0] - calm, 0.0), "differed": differ,
    }  # fmt: skip


def _commits(folder: Path) -> dict[str, int]:
    """Return when each finished stage was committed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json")}


def _mount(mount: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]
    subprocess.run(command, check=True, capture_output=True)


def _unmount(mount: Path) -> None:
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
