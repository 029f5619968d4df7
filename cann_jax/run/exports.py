"""What leaves a run: the aligned model in the formats of others."""

from collections.abc import Iterable
from dataclasses import replace

from etils import epath

from cann_jax.config.export import Format
from cann_jax.config.mesh import DistributedConfig, MeshConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.schema import from_mapping
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import as_json
from cann_jax.files.paths import reached
from cann_jax.models.adapters.peft import check_adaptable, export_adapter
from cann_jax.models.adapters.scale import scaled_decoder
from cann_jax.models.decoder import Decoder
from cann_jax.models.export.folder import export_folder
from cann_jax.models.export.gguf import check_gguf, export_gguf
from cann_jax.models.files.model_files import public_name
from cann_jax.run.execution import plan, refuse_stale, run_stages
from cann_jax.run.folder import open_folder
from cann_jax.run.manifest import MANIFEST, committed
from cann_jax.run.run import Run
from cann_jax.run.stages import chosen_stages
from cann_jax.runtime.session import session
from cann_jax.sampling.shards import stop_tokens

GGUF_FILE = "model.gguf"


def check_exports(run: Run) -> None:
    """Check, before anything is computed, that the model can be written in the formats asked for.

    Raises:
        InputError: It cannot.
    """
    config = run.config
    if "adapter" in config.export and config.align.lora is not None:
        check_adaptable(run.files.config, config.align.lora.targets)
    if "gguf" in config.export:
        check_gguf(run.files)


def export_again(run: Run, form: Format) -> epath.Path:
    """Let the stage ``export`` of a finished run write one more format; return the folder of that.

    No other stage is made anew. The formats that are there are written again beside it; asked for one of
    them, nothing is done.

    Raises:
        InputError: The run has not ended, trained nothing, or cannot be written in the format.
    """
    config = _exporting(run.config, (*run.config.export, form))
    if not config.trains:
        problem = f"{run.folder}: evaluate.policy is {config.evaluate.policy}, so that nothing was trained"
        raise InputError(f"{problem}; export a run that trains")
    # The run's mesh may have been another machine's.
    here = Run(replace(config, mesh=MeshConfig(), distributed=DistributedConfig()))
    stages = chosen_stages(here.pipeline, config, "export")

    def check() -> None:
        check_exports(here)
        refuse_stale(here, stages)

    with session(here.config, {}), open_folder(here.folder, config, check):
        run_stages(here, stages)
    return here.folder / "export" / form


def keeping_formats(run: Run) -> Run:
    """Return the run with the formats that ``export_again`` added too, if they are still of this very model.

    A start by a configuration that does not name them would delete them: many GB, asked for by name.
    """
    folder = run.folder / "export"
    with reached(folder, "run_dir"):
        there = committed(folder)["settings"].get("export", []) if (folder / MANIFEST).exists() else []
    more = [form for form in there if form not in run.config.export]
    if not more:
        return run
    try:
        made = Run(_exporting(run.config, there))
        fresh = {each.stage.name for each in plan(made, made.stages) if each.fresh}
    except InputError:  # a format does not fit the settings, so that these are others than it was made by
        return run
    if "export" not in fresh:  # made anew, or no stage of a run that trains nothing
        return run
    print(f"export: {', '.join(more)} is there of this model, and stays", flush=True)
    nothing_new = {*run.config.export} <= {*there}
    return made if nothing_new else Run(_exporting(run.config, (*there, *run.config.export)))


def _exporting(config: RunConfig, formats: Iterable[str]) -> RunConfig:
    """Return the configuration with these formats, each once."""
    return from_mapping(RunConfig, as_json(config) | {"export": tuple(dict.fromkeys(formats))})


def write_model(run: Run, form: Format, decoder: Decoder, scale: float, folder: epath.Path) -> None:
    """Write a trained model in one format; the update of its adapters is ``scale`` times as large there."""
    if form == "adapter":
        return write_adapter(run, decoder, folder, scale)
    merged, dtype = decoder if scale == 1 else scaled_decoder(decoder, scale), run.config.model.dtype
    if form == "merged":
        # With sample.stop ["\n"] every measured response ended at a line's end, and the export wrote on.
        export_folder(merged, run.files, folder, dtype, stop_tokens(run.files, run.config.sample).tolist())
    else:
        export_gguf(merged, run.files, folder / GGUF_FILE, dtype)


def write_adapter(run: Run, decoder: Decoder, folder: epath.Path, scale: float = 1.0) -> None:
    """Write a model's adapters in PEFT's format; their update is ``scale`` times as large there."""
    path, revision = run.config.model.path, run.config.model.revision
    export_adapter(decoder, folder, public_name(path) or path, run.files.fingerprint(), scale, revision)
