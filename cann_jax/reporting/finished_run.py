"""The finished run that a folder holds."""

from dataclasses import replace

from etils import epath

from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.run.folder import CONFIG
from cann_jax.run.manifest import MANIFEST
from cann_jax.run.run import Run

REPORTED = {"dual", "align", "evaluate"}


def finished_run(path: str) -> Run:
    """Return the run in a folder, which may have been moved since it ran.

    Raises:
        InputError: The folder does not hold a run of ``train``, or a stage that the report shows is missing.
    """
    folder = epath.Path(path)
    if not (folder / CONFIG).exists():
        raise InputError(f"{path}: is not a run's folder, it has no {CONFIG}; give one, like runs/quickstart")
    try:
        config = from_mapping(RunConfig, read_json(folder / CONFIG))
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: is not the configuration of a run of train ({error})") from None
    run = Run(config)
    for stage in (stage.name for stage in run.stages if stage.name in REPORTED):
        if not (folder / stage / MANIFEST).exists():
            raise InputError(
                f"{path}: the run is not finished, its stage {stage!r} is missing; "
                "start train again to continue it"
            )
    return run if run.folder == folder else Run(replace(config, run_dir=str(folder.parent), name=folder.name))
