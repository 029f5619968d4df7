"""``--dry_run``: check everything that can be checked before the first step, and compute nothing.

Configuration, files, tensor names and shapes, prompts, scorers, divisibility; then sampling and training are
compiled for their real shapes, without a weight being read, and their memory is printed. Nothing is written
but the compiled programs, into the user's compilation cache, where the run itself finds them.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from cann_jax.config_training import LoraConfig
from cann_jax.console import console
from cann_jax.data.preferences import steps_in
from cann_jax.data.prompts import EncodedPrompts
from cann_jax.data.responses import Responses
from cann_jax.models.decoder import Decoder
from cann_jax.models.load import abstract_decoder
from cann_jax.models.weights import check_weights
from cann_jax.padding import BUCKET, bucketed
from cann_jax.sampling.shards import stop_tokens
from cann_jax.scorers import check_finite, check_scorer
from cann_jax.stages.evaluate import measured_scorers
from cann_jax.stages.programs import trace_sampling, trace_training
from cann_jax.stages.run import Run
from cann_jax.stages.score import reward_and_constraints

HISTOGRAM_ROWS, BAR = 8, 40
MIB = 1 << 20


def dry_run(run: Run) -> None:
    """Print what the run would do and need.

    Raises:
        InputError: what would stop it.
    """
    out = console()
    files = run.files
    check_weights(
        {name: reader.shape for name, reader in files.readers.items()}, files.config, str(files.path)
    )
    decoder, size = _abstract(run), _parameters(run) / 1e6
    out.print(
        f"model: {files.path.name}, {size:.1f} M parameters, {decoder.dtype}, attention by {decoder.kernel}"
    )
    for line in (*_prompt_lines(run), *_scorer_lines(run), *_step_lines(run)):
        out.print(line, markup=False)
    out.print(_memory_table(run))
    out.print(f"nothing was computed, and {run.folder} is as it was", markup=False)


def _parameters(run: Run) -> int:
    """Of the reference; a copy of a tied head in the files counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(_abstract(run), nnx.Param)))


def _abstract(run: Run, lora: LoraConfig | None = None, *, wide=False) -> Decoder:
    model = run.config.model
    return abstract_decoder(run.files.config, model.dtype, lora, wide=wide, attention=model.attention)


def _prompt_lines(run: Run) -> Iterator[str]:
    for name, prompts in (("train", run.train_prompts), ("heldout", run.heldout_prompts)):
        kept, dropped = len(prompts), prompts.dropped
        yield f"prompts.{name}: {kept} kept, {dropped} dropped, {prompts.truncated} cut on the left"
    yield "tokens of the training prompts, template included:"
    yield from histogram(np.array([len(ids) for ids in run.train_prompts.ids]))


def histogram(lengths: np.ndarray) -> Iterator[str]:
    """Counts of token lengths as lines of text, in a few bins whose width is a multiple of ``BUCKET``."""
    width = BUCKET * -(-int(lengths.max()) // (BUCKET * HISTOGRAM_ROWS))
    counts = np.bincount((lengths - 1) // width)
    for index, count in enumerate(counts):
        bar = "█" * -(-BAR * int(count) // int(counts.max()))
        yield f"  {index * width + 1:>6}–{(index + 1) * width:<6} {count:>7} {bar}"


def _scorer_lines(run: Run) -> Iterator[str]:
    """Load and probe the scorers that need no model; a table must score every response to come."""
    config = run.config
    for name, (values, key) in (reward_and_constraints(config) | measured_scorers(config)).items():
        scorer: Any = check_scorer(values, key, run.files, config.prompts)
        if values["kind"] == "column":
            hollow = _hollow_responses(run.train_prompts, config.sample.responses)
            check_finite(scorer(hollow, hollow.logps).values, hollow, key)
        probed = ", probed" if scorer is not None and values.get("probe") else ""
        yield f"scorer {name}: {values['kind']}{probed}"


def _hollow_responses(prompts: EncodedPrompts, count: int) -> Responses:
    """Responses of which only prompts and number are known."""
    zeros = np.zeros((len(prompts), count), np.int32)
    return Responses(prompts, zeros[..., None], zeros, zeros > 0, zeros.astype(np.float32), [])


def _step_lines(run: Run) -> Iterator[str]:
    align, sample = run.config.align, run.config.sample
    count, width = len(run.train_prompts), _prompt_width(run)
    steps = steps_in(align.epochs, count, align.prompts_per_step)
    tokens = align.prompts_per_step * (width + align.group_size * sample.max_new_tokens)
    pairs = align.prompts_per_step * align.group_size * (align.group_size - 1) // 2
    yield f"sampling: {count} prompts × {sample.responses} responses of up to {sample.max_new_tokens} tokens"
    yield f"training: {steps} steps of up to {tokens} tokens and {pairs} pairs each, padding included"


def _prompt_width(run: Run) -> int:
    return bucketed(list(run.train_prompts.ids))[0].shape[1]


def _memory_table(run: Run) -> Table:
    table = Table(title=f"compiled memory, MiB per device ({jax.default_backend()})", title_justify="left")
    for heading in ("program", "arguments", "temporaries", "output", "together"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, program in _programs(run).items():
        table.add_row(name, *_memory_cells(program.lower().compile().memory_analysis()))
    return table


def _memory_cells(found: Any) -> list[str]:
    """Donated arguments are the output's memory too, and count once."""
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes)
    return [f"{size / MIB:.1f}" for size in (*parts, sum(parts) - found.alias_size_in_bytes)]


def _programs(run: Run) -> dict[str, Any]:
    """Sampling of the widest batch, the reference's pass over a training batch and the training step."""
    config, shape, width = run.config, run.files.config, _prompt_width(run)
    steps = steps_in(config.align.epochs, len(run.train_prompts), config.align.prompts_per_step)
    stop = len(stop_tokens(run.files.tokenizer, config.sample))
    sampling = trace_sampling(config, shape, width, stop)
    return {"sampling": sampling, **trace_training(config, shape, width, steps)}
