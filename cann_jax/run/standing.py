"""How far a run has come, as its folder tells while another process works on it."""

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

from etils import epath

from cann_jax.files.lock import writer_of
from cann_jax.run.run import ModelRun
from cann_jax.training.metrics import METRICS

SHARD = re.compile(r"(.+)-(\d{6,})-(\d{6,})\.parquet")


def standing(run: ModelRun[Any], ended: Collection[str]) -> str | None:
    """Return in a line which stages have ended, which is next and how far it is; None after the last.

    ``ended`` are those that have, by the run's present settings. Only reads, and takes no lock.
    """
    stages = [stage.name for stage in run.stages]
    left = [name for name in stages if name not in ended]
    if not left:
        return None
    writer = writer_of(run.folder)
    works = f"at work is {writer}" if writer else "nobody is at work; the same command goes on"
    done = _done(run.folder / left[0])
    far = f" ({done})" if done else ""
    count = len(stages) - len(left)
    return f"{run.config.name}: {count} of {len(stages)} stages have ended; next is {left[0]}{far}; {works}"


def _done(folder: epath.Path) -> str:
    """Return what a stage without a commit holds: prompts in shards of each kind, and steps of a training.

    Some stages have them in a folder for each of their parts.
    """
    if not folder.exists():
        return ""
    counts: Counter[str] = Counter()
    parts = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in (each for place in (folder, *parts) for each in place.iterdir() if not each.is_dir()):
        if found := SHARD.fullmatch(path.name):
            counts[f"prompts of {found[1]}"] += int(found[3]) - int(found[2])
        elif path.name == METRICS:
            of = "" if path.parent == folder else f" of {path.parent.name}"
            counts[f"steps{of}"] = len(path.read_bytes().splitlines())
    return ", ".join(f"{count} {what}" for what, count in counts.items())
