"""The trackers of a run: opened at its start, told its outcome, closed at its end."""

import contextlib
import importlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cann_jax.config.tracking import TrackerName
from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.console import one_line
from cann_jax.files.errors import InputError
from cann_jax.files.functions import named_function
from cann_jax.files.hashes import fingerprint_json
from cann_jax.files.paths import is_remote
from cann_jax.run.pipeline import NO_RESULT
from cann_jax.run.results import asked_change, constraint_rows, verdicts
from cann_jax.run.run import ModelRun, Run
from cann_jax.run.stages import covered
from cann_jax.runtime import distributed
from cann_jax.training.trackers.base import Job, Outcome, Tracker, Unfailing, trackers
from cann_jax.training.trackers.hook import Hook
from cann_jax.training.trackers.mlflow import MLflow
from cann_jax.training.trackers.tensorboard import TensorBoard
from cann_jax.training.trackers.wandb import Trackio, WandB


class Optional(NamedTuple):
    """A tracker whose package is not required.

    Args:
        package: What is installed.
        open: What logs to it.
        remedy: What to do where it cannot be opened.
    """

    package: str
    open: Callable[[Any, Job], Tracker]
    remedy: str


# By the name that is also the module's.
OPTIONAL: dict[TrackerName, Optional] = {
    "wandb": Optional("wandb", WandB, "run wandb login, or set WANDB_MODE=offline"),
    "trackio": Optional("trackio", Trackio, "make its folder writable, or set TRACKIO_DIR to another"),
    "mlflow": Optional(
        "mlflow-skinny",
        MLflow,
        "set MLFLOW_TRACKING_URI to a server or, with MLFLOW_ALLOW_FILE_STORE=true, to a folder (file:///…)",
    ),
}
ID = "tracking.json"  # by what trackers know the run, and of which settings it is
FILES = ("report.html", "report.md", "evaluate/results.json")


def check_tracking(run: ModelRun[Any]) -> None:
    """Check, before anything is computed, that what ``metrics`` and ``on_step`` name is there.

    Raises:
        InputError: It is not; says what to install.
    """
    for name in run.config.metrics:
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            raise InputError(f"metrics: {name} is not installed; run: pip install {OPTIONAL[name].package}")
    if run.config.on_step is not None:
        named_function(run.config.on_step, "on_step")


@contextlib.contextmanager
def tracked(run: ModelRun[Any]) -> Iterator[None]:
    """Log what is trained within this context, on the first process, to the trackers that the run names.

    Raises:
        InputError: A tracker cannot be opened.
    """
    check_tracking(run)
    found = _open(run) if distributed.is_first() else ()
    token = trackers.set(found)
    try:
        yield
    finally:
        trackers.reset(token)
        for tracker in found:
            tracker.close()


def conclude(run: Run, results: Mapping[str, Any], exported: Sequence[str]) -> None:
    """Tell the trackers in use what a run has come to.

    Args:
        run: The run, reported.
        results: Those of its evaluation.
        exported: The formats that its model is there in.
    """
    values = {
        f"{row.get('label', name)}/{key}": float(value)
        for name, row in (*constraint_rows(results), ("reward", results["reward"]))
        for key, value in (
            ("asked", asked_change(row)),
            ("predicted", row.get("predicted")),
            ("measured", row["measured"]),
        )
        if value is not None
    }
    values |= {"kl": float(results["summary"]["kl"]), "scale": float(results["summary"]["scale"])}
    texts = {"verdict": results["summary"]["verdict"], "verdict_in_words": _words(results)}
    paths = (*FILES, *(f"export/{form}" for form in exported))
    files = [] if is_remote(run.folder) else [Path(run.folder / path) for path in paths]
    for tracker in trackers.get():
        tracker.conclude(Outcome(texts, values, files))


def _words(results: Mapping[str, Any]) -> str:
    return "; ".join(verdict.text for verdict in verdicts(results))


def _open(run: ModelRun[Any]) -> tuple[Tracker, ...]:
    opened: list[Tracker] = []
    for name in run.config.metrics:
        if name == "tensorboard":
            opened.append(TensorBoard(run.folder))
        elif name in OPTIONAL:
            job = Job(run.config.name, _id(run), run.folder, run.settings)
            opened.append(Unfailing(name, _optional(name, job)))
    if run.config.on_step is not None:
        opened.append(Hook(named_function(run.config.on_step, "on_step"), run.config.on_step))
    return tuple(opened)


def _id(run: ModelRun[Any]) -> str:
    """Return the id kept in the run's folder; a new one where name or settings are not those it is kept with.

    Trackers take the settings once and add numbers for ever: of β 0.1 and then 0.5 in one folder, MLflow said
    0.1 and had both trainings at the same steps, and a copy of a folder replaced the verdict of the first.
    Its path would not do for an id: two machines may have the same.
    """
    path = run.folder / ID
    now = {"name": run.config.name, "settings": fingerprint_json(_deciding_settings(run))}
    then = read_json(path) if path.exists() else {}
    if then != then | now:  # a file of before these were kept has the id alone
        then = {"id": uuid.uuid4().hex[:16], **now}
        write_json(path, then)
    return str(then["id"])


def _deciding_settings(run: ModelRun[Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, that results depend on, and where the files that they are of lie.

    A stage that reads all of them, the export, decides none.
    """
    read = {key for stage in run.stages if "*" not in stage.settings for key in stage.settings}
    return {key: x for key, x in run.settings.items() if covered(key, read) and not covered(key, NO_RESULT)}


def _optional(name: TrackerName, job: Job) -> Tracker:
    try:
        return OPTIONAL[name].open(importlib.import_module(name), job)
    except Exception as error:
        reason = one_line(str(error), 200) or type(error).__name__
        raise InputError(
            f"metrics: {name} cannot be opened ({reason}); {OPTIONAL[name].remedy}, or leave it out"
        ) from None
