"""The model, the lengths and the memory that a dry run prints, of a run or of a score model."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from cann_jax.config.model import ModelConfig
from cann_jax.data.padding import BUCKET
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.folder import read_json
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.files.weight_names import check_weights
from cann_jax.runtime.mesh import current_mesh
from cann_jax.runtime.sharding import check_model

HISTOGRAM_ROWS, BAR = 8, 40
MIB = 1 << 20
STEPS = 1_000_000  # where the data are not here to count them: more than any warm-up


def shape_of_model(
    open_files: Callable[[], ModelFiles], model: ModelConfig, model_config: str | None, out: Console
) -> DecoderConfig:
    """Return the architecture, from the model's files or from ``model_config`` in their place, and print it.

    Raises:
        InputError: Files are missing or do not fit, or the mesh does not divide the architecture.
    """
    if model_config is None:
        files = open_files()
        shape, source = _checked_shape(files), files.path.name
    else:
        shape, source = _shape_from(model_config), f"by {model_config}, no model opened"
    check_model(shape, current_mesh())
    out.print(_model_line(shape, model, source), markup=False)
    return shape


def _shape_from(path: str) -> DecoderConfig:
    """Read the architecture in a ``config.json``.

    Raises:
        InputError: It is missing, malformed, or of a model that is not supported.
    """
    if not Path(path).is_file():
        raise InputError(
            f"--model_config {path} is not a file; give a model's config.json (configs/models has some)"
        )
    return DecoderConfig.from_hf(read_json(Path(path)), path)


def _checked_shape(files: ModelFiles) -> DecoderConfig:
    """Return the architecture of a model, after checking the names and shapes of its tensors.

    Raises:
        InputError: They are not those that it needs.
    """
    check_weights(
        {name: reader.shape for name, reader in files.readers.items()}, files.config, str(files.path)
    )
    return files.config


def _model_line(shape: DecoderConfig, model: ModelConfig, source: str) -> str:
    """Return what the model is; a copy of a tied head in the files counts once."""
    decoder = abstract_decoder(shape, model.dtype, None, attention=model.attention)
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(decoder, nnx.Param))) / 1e6
    return f"model: {source}, {size:.1f} M parameters, {decoder.dtype}, attention by {decoder.kernel}"


def histogram(lengths: np.ndarray) -> Iterator[str]:
    """Yield counts of token lengths as lines of text, in bins of a multiple of ``BUCKET``."""
    width = BUCKET * -(-int(lengths.max()) // (BUCKET * HISTOGRAM_ROWS))
    counts = np.bincount((lengths - 1) // width)
    for index, count in enumerate(counts):
        bar = "█" * -(-BAR * int(count) // int(counts.max()))
        yield f"  {index * width + 1:>6}–{(index + 1) * width:<6} {count:>7} {bar}"


def memory_table(programs: Mapping[str, Any]) -> Table:
    """Compile traced programs, and return a table of what each needs of a device."""
    table = Table(title=f"compiled memory, MiB per device ({jax.default_backend()})", title_justify="left")
    for heading in ("program", "arguments", "temporaries", "output", "together"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, program in programs.items():
        table.add_row(name, *_memory_cells(program.lower().compile().memory_analysis()))
    return table


def _memory_cells(found: Any) -> list[str]:
    """Return the sizes; donated arguments are the output's memory too, and count once."""
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes)
    return [f"{size / MIB:.1f}" for size in (*parts, sum(parts) - found.alias_size_in_bytes)]
