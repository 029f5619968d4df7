"""How far a run has come, as its folder tells while another process works on it."""

import re
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from etils import epath

from cann_jax.files.lock import writer_of
from cann_jax.run.manifest import MANIFEST
from cann_jax.run.run import ModelRun
from cann_jax.training.checkpoint_digests import CHECKPOINTS, saved_steps
from cann_jax.training.health import HEALTH, read_health
from cann_jax.training.metrics import METRICS

SHARD = re.compile(r"(.+)-(\d{6,})-(\d{6,})\.parquet")


class Standing(NamedTuple):
    """How far a run is: a line, and what a process is at work on, None where none is."""

    line: str
    at_work: str | None


def standing(run: ModelRun[Any], ended: Collection[str]) -> Standing | None:
    """Return which stages have ended, which is next or worked on and how far it is; None after the last.

    ``ended`` are those that have, by the run's present settings. Only reads, and takes no lock.
    """
    stages = [stage.name for stage in run.stages]
    left = [name for name in stages if name not in ended]
    if not left:
        return None
    folder, name = run.folder / left[0], run.config.name
    done, count = _done(folder), f"{len(stages) - len(left)} of {len(stages)} stages have ended"
    far = f"{done} done" if done else ""
    if writer := writer_of(run.folder):
        at_work = f"at work on {left[0]}" + (f", {far}" if far else "")
        return Standing(f"{name}: {at_work}; {count}; it is {writer}", at_work)
    known = "; ".join(filter(None, (far, _resumes(folder))))
    line = f"{name}: {count}; next is {left[0]}" + (f" ({known})" if known else "")
    return Standing(f"{line}; nobody is at work; the same command goes on", None)


def _done(folder: epath.Path) -> str:
    """Return what a stage without a commit holds: prompts in shards of each kind, and steps of a training.

    Some stages have them in a folder for each of their parts.
    """
    counts: Counter[str] = Counter()
    of_all: dict[str, str] = {}
    for path in (each for place in places(folder) for each in place.iterdir() if not each.is_dir()):
        if found := SHARD.fullmatch(path.name):
            counts[f"prompts of {found[1]}"] += int(found[3]) - int(found[2])
        elif path.name == METRICS:
            what = "steps" if path.parent == folder else f"steps of {path.parent.name}"
            counts[what] = len(path.read_bytes().splitlines())
            of_all[what] = _of_all(path.parent)
    return ", ".join(f"{count}{of_all.get(what, '')} {what}" for what, count in counts.items())


def _of_all(training: epath.Path) -> str:
    """Return the number of steps that a training has in all, which is known from its first check on."""
    return f" of {read_health(training).steps}" if (training / HEALTH).exists() else ""


def _resumes(folder: epath.Path) -> str:
    """Return after which step the training of a stage without a commit goes on."""
    begun = [
        place for place in places(folder) if (place / METRICS).exists() and not (place / MANIFEST).exists()
    ]
    if not begun:
        return ""
    steps = saved_steps(begun[-1] / CHECKPOINTS)
    return f"it goes on after step {steps[0]}" if steps else "it goes on from its first step"


def places(folder: epath.Path) -> list[epath.Path]:
    """Return the folder of a stage, if it is there, and those of its parts."""
    if not folder.exists():
        return []
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
