"""The run that a folder holds, finished or not."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from etils import epath

from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.files.lock import writer_of
from cann_jax.run.execution import altered_since
from cann_jax.run.folder import CONFIG, VERSIONS
from cann_jax.run.manifest import MANIFEST, MISSING, OUTPUTS, SETTINGS, committed, other_version
from cann_jax.run.pipeline import PIPELINE, SCORE_MODEL_PIPELINE, Stage
from cann_jax.run.run import Run, ScoreModelRun

FORMATS = "settings.export: "  # how the difference between two lists of formats begins


class OtherVersionError(InputError):
    """A run was made by another version of this program, which writes other files."""


def finished_run(path: str) -> Run:
    """Return the run of ``train`` in a folder, which may have been moved since it ran.

    Raises:
        InputError: The folder does not hold such a run, or a file was altered since its stage ended.
    """
    run = _run_in(path)
    _check_stages(run, path)
    if not isinstance(run, Run):
        raise InputError(f"{path}: holds a score model, no aligned policy; give the folder of a run of train")
    return run


def run_to_report(path: str) -> Run | ScoreModelRun:
    """Return the run in a folder, of ``train`` or of ``reward``, which may have been moved since it ran.

    While it is made anew by other settings, stages that are still those of the former ones may be there.

    Raises:
        InputError: The folder does not hold a run, or a file was altered since its stage ended.
    """
    run = _run_in(path)
    places = [run.folder / stage.name for stage in run.stages]
    begun = any((place / SETTINGS).exists() and not (place / MANIFEST).exists() for place in places)
    _check_stages(run, path, anew=begun or writer_of(run.folder) is not None)
    return run


def runs_to_report(paths: Sequence[str]) -> list[Run | ScoreModelRun]:
    """Return the runs in folders; of several, print and leave out those that another version made.

    Raises:
        InputError: As ``run_to_report``, or no run is left.
    """
    found, others = [], []
    for path in paths:
        try:
            found.append(run_to_report(path))
        except OtherVersionError as error:
            others.append(error)
    if not found:
        raise others[0]
    for other in others:
        print(f"left out: {other}")
    return found


def _run_in(path: str) -> Run | ScoreModelRun:
    folder = epath.Path(path)
    if not (folder / CONFIG).exists():
        raise InputError(f"{path}: is not a run's folder, it has no {CONFIG}; give one, like runs/quickstart")
    return _run_of(folder)


def _run_of(folder: epath.Path) -> Run | ScoreModelRun:
    values = read_json(folder / CONFIG)
    place = {"run_dir": str(folder.parent), "name": folder.name}
    try:
        if isinstance(values, dict) and "objective" in values:  # what a score model is trained for
            return ScoreModelRun(replace(from_mapping(ScoreModelConfig, values), **place))
        return Run(replace(from_mapping(RunConfig, values), **place))
    except InputError as error:
        _check_version(folder, PIPELINE + SCORE_MODEL_PIPELINE)  # whose keys may have been others
        raise InputError(f"{folder / CONFIG}: is not the configuration of a run ({error})") from None


def _check_stages(run: Run | ScoreModelRun, path: str, anew: bool = False) -> None:
    """Check the files of stages that have ended; of a run that is made ``anew``, their outputs alone."""
    if not anew:
        _check_version(run.folder, run.stages)
    for stage in run.stages:
        if (run.folder / stage.name / MANIFEST).exists():
            _check_unaltered(run, stage, path, f"{OUTPUTS}." if anew else "")


def _check_version(folder: epath.Path, stages: Iterable[Stage]) -> None:
    """Raise OtherVersionError if another version of this program made one of the stages that have ended."""
    for place in (folder / stage.name for stage in stages):
        made_by = other_version(committed(place)) if (place / MANIFEST).exists() else None
        if made_by is not None:
            raise OtherVersionError(
                f"{folder}: {made_by}; use that version, which {VERSIONS} there names, or start its command "
                "again, which makes it anew"
            )


def _check_unaltered(run: Run | ScoreModelRun, stage: Stage, path: str, about: str) -> None:
    """Check a stage's files; large ones that the report does not show may have been deleted."""
    lines = [line for line in altered_since(run, stage) if line.startswith(about)]
    different = [line for line in lines if not line.endswith(MISSING)]
    if stage.name == "export":  # one more format was asked for, and the process killed before it began it
        different = [line for line in different if not line.startswith(FORMATS)]
    if different:
        raise InputError(
            f"{path}: stage {stage.name!r} is stale: {different[0]}; start its command again to make it anew"
        )
