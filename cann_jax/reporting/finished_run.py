"""The run that a folder holds, finished or not."""

from dataclasses import replace

from etils import epath

from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.run.execution import altered_since
from cann_jax.run.folder import CONFIG
from cann_jax.run.manifest import MANIFEST, MISSING
from cann_jax.run.pipeline import Stage
from cann_jax.run.run import Run, ScoreModelRun

FORMATS = "settings.export: "  # how the difference between two lists of formats begins


def finished_run(path: str) -> Run:
    """Return the run of ``train`` in a folder, which may have been moved since it ran.

    Raises:
        InputError: The folder does not hold such a run, or a file was altered since its stage ended.
    """
    run = any_finished_run(path)
    if not isinstance(run, Run):
        raise InputError(f"{path}: holds a score model, no aligned policy; give the folder of a run of train")
    return run


def any_finished_run(path: str) -> Run | ScoreModelRun:
    """Return the run in a folder, of ``train`` or of ``reward``, which may have been moved since it ran.

    Raises:
        InputError: The folder does not hold a run, or a file was altered since its stage ended.
    """
    folder = epath.Path(path)
    if not (folder / CONFIG).exists():
        raise InputError(f"{path}: is not a run's folder, it has no {CONFIG}; give one, like runs/quickstart")
    run = _run_of(folder)
    for stage in run.stages:
        if (folder / stage.name / MANIFEST).exists():
            _check_unaltered(run, stage, path)
    return run


def _run_of(folder: epath.Path) -> Run | ScoreModelRun:
    values = read_json(folder / CONFIG)
    place = {"run_dir": str(folder.parent), "name": folder.name}
    try:
        if isinstance(values, dict) and "objective" in values:  # what a score model is trained for
            return ScoreModelRun(replace(from_mapping(ScoreModelConfig, values), **place))
        return Run(replace(from_mapping(RunConfig, values), **place))
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: is not the configuration of a run ({error})") from None


def _check_unaltered(run: Run | ScoreModelRun, stage: Stage, path: str) -> None:
    """Check a stage's files; large ones that the report does not show may have been deleted."""
    different = [line for line in altered_since(run, stage) if not line.endswith(MISSING)]
    if stage.name == "export":  # one more format was asked for, and the process killed before it began it
        different = [line for line in different if not line.startswith(FORMATS)]
    if different:
        raise InputError(
            f"{path}: stage {stage.name!r} is stale: {different[0]}; start its command again to make it anew"
        )
