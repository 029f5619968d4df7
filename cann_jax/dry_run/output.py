"""What the dry runs of a run and of a score model print alike: model, lengths, stages and memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from cann_jax.data.padding import BUCKET
from cann_jax.files.errors import InputError, ResourceError
from cann_jax.files.shipped import architecture_file
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.folder_files import read_json
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.files.weight_names import check_weights
from cann_jax.run.execution import plan, refuse_stale
from cann_jax.run.run import ModelRun
from cann_jax.run.stages import Pipeline
from cann_jax.runtime.devices import memory_of
from cann_jax.runtime.memory import Held, held
from cann_jax.runtime.mesh import current_mesh
from cann_jax.runtime.sharding import check_model

HISTOGRAM_ROWS, BAR = 8, 40
MIB = 1 << 20
STEPS = 1_000_000  # where the data are not here to count them: more than any warm-up


def print_dry_run(
    out: Console,
    run: ModelRun[Any],
    lines: Iterable[str],
    trace: Callable[[], Mapping[str, Any]],
    *,
    opened: bool,
) -> None:
    """Print the lines, and then the memory of the programs that ``trace`` returns.

    Raises:
        ResourceError: A program needs more than a device has, and the run is meant for these devices: its
            model is ``opened``. Otherwise a line says so.
    """
    for line in lines:
        out.print(line)
    needs = {name: _held(program) for name, program in trace().items()}
    own = memory_of(jax.devices()[0])
    out.print(_memory_table(needs, own))
    kept = f", and {run.folder} is as it was" if run.folder.exists() else ""
    out.print(f"nothing was computed{kept}")
    largest = max(needs, key=lambda name: needs[name].together)
    needed = needs[largest].together
    if own is not None and needed > own:
        too_large = (
            f"{largest} needs {needed / MIB:,.0f} MiB of a device, which has {own / MIB:,.0f}; "
            "--device NAME proposes settings that fit (docs/pods.md)"
        )
        if opened:
            raise ResourceError(too_large)
        out.print(f"! here {too_large}")


def shape_of_model(run: ModelRun[Any], model_config: str | None, out: Console) -> DecoderConfig:
    """Return the architecture, from the model's files or from ``model_config`` in their place, and print it.

    Raises:
        InputError: Files are missing or do not fit, or the mesh does not divide the architecture.
    """
    if model_config is None:
        files, source = run.files, run.files.path.name
        shapes = {name: reader.shape for name, reader in files.readers.items()}
        check_weights(shapes, files.config, str(files.path))
        shape = files.config
    else:
        file = architecture_file(model_config)
        if not file.is_file():
            raise InputError(
                f"--model_config {model_config} is not a file; give a model's config.json "
                "or a name that the package carries"
            )
        source = f"by {model_config}, no model opened"
        shape = DecoderConfig.from_hf(read_json(file), model_config)
    check_model(shape, current_mesh())
    decoder = abstract_decoder(shape, run.config.model.dtype, None, attention=run.config.model.attention)
    # Counted here and not in the files, where a tied head may have a copy.
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(decoder, nnx.Param))) / 1e6
    found = f"{size:.1f} M parameters, {decoder.dtype}, attention by {decoder.kernel}"
    out.print(f"model: {source}, {found}")
    return shape


def histogram(lengths: np.ndarray) -> Iterator[str]:
    """Yield counts of token lengths as lines of text, in bins of a multiple of ``BUCKET``."""
    width = BUCKET * -(-int(lengths.max()) // (BUCKET * HISTOGRAM_ROWS))
    counts = np.bincount((lengths - 1) // width)
    for index, count in enumerate(counts):
        bar = "█" * -(-BAR * int(count) // int(np.max(counts)))
        yield f"  {index * width + 1:>6}–{(index + 1) * width:<6} {count:>7} {bar}"


def plan_lines(run: ModelRun[Any], stages: Pipeline, *, opened: bool) -> Iterator[str]:
    """Yield a line a stage; without the model at hand, what it made before cannot be recognised.

    Raises:
        InputError: A stage reads one that would not run and is not fresh.
    """
    if not opened or not run.folder.exists():
        yield f"stages: {', '.join(stage.name for stage in stages)}"
        return
    refuse_stale(run, stages)
    for each in plan(run, run.stages):
        if each.stage in stages:
            differences = "; ".join(each.state.differences)
            why = f"computed again: {differences}" if differences else "to do"
            yield f"stage {each.stage.name}: {'done already' if each.fresh else why}"


def _held(program: Any) -> Held:
    return held(program.lower().compile())


def _memory_table(needs: Mapping[str, Held], own: float | None) -> Table:
    """Return a table of what each program needs of a device."""
    has = "" if own is None else f", of {own / MIB:,.0f}"
    title = f"compiled memory, MiB per device{has} ({jax.default_backend()})"
    table = Table(title=title, title_justify="left")
    for heading in ("program", *Held._fields):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, sizes in needs.items():
        table.add_row(name, *(f"{size / MIB:.1f}" for size in sizes))
    return table
