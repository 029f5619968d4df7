"""``python -m cann_jax.reward --dry_run``: as ``dry_run.run``, for a reward or cost model."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.data.padding import step_width
from cann_jax.dry_run.memory import STEPS, histogram, memory_table, shape_of_model
from cann_jax.dry_run.plan import plan_lines
from cann_jax.files.console import console
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.load import abstract_decoder
from cann_jax.run.checks import check_warmup
from cann_jax.run.run import ScoreModelRun
from cann_jax.run.training import split
from cann_jax.runtime.placement import shapes_of_batch, shapes_of_parameters
from cann_jax.stages import pairs as pairs_stage
from cann_jax.stages.score_model import score_data, score_objective
from cann_jax.training.score_data import ScoreData
from cann_jax.training.score_objective import ScoreBatch, ScoreWeights
from cann_jax.training.step import start, train_step


def dry_run_score_model(run: ScoreModelRun, model_config: str | None = None) -> None:
    """Print what the training would do and need; arguments as ``dry_run``.

    Raises:
        InputError: What would stop it.
    """
    out, config = console(), run.config
    opened = model_config is None
    shape = shape_of_model(lambda: run.files, config.model, model_config, out)
    data = _data(run) if opened and config.preferences.path is not None else None
    for line in (*_lines(config, data), *plan_lines(run, run.pipeline, opened=data is not None)):
        out.print(line, markup=False)
    step = _trace(config, shape, STEPS if data is None else data.steps, *_widths(config, data))
    out.print(memory_table({"training step": step}))
    out.print(f"nothing was computed, and {run.folder} is as it was", markup=False)


def _data(run: ScoreModelRun) -> ScoreData:
    """Return the labelled training pairs, made in a folder that is deleted again."""
    with tempfile.TemporaryDirectory() as folder:
        preferences = replace(run.preferences, prepared=folder)
        aside = ScoreModelRun(replace(run.config, preferences=preferences, run_dir=folder))
        pairs_stage.run(aside)
        score_data(aside, "heldout")
        data = score_data(aside, "train")
    check_warmup("", run.config.optimizer, data.steps)
    return data


def _lines(config: ScoreModelConfig, data: ScoreData | None) -> Iterator[str]:
    if data is None:
        yield (
            "preferences: not read; taken to fill preferences.max_tokens, "
            f"{config.preferences.max_tokens}; the number of steps comes with the data"
        )
        return
    yield "tokens of the training pairs, both responses included:"
    yield from histogram(data.lengths)
    yield f"training: {data.steps} steps of {data.size} of {len(data.chosen)} labelled pairs"


def _widths(config: ScoreModelConfig, data: ScoreData | None) -> tuple[int, int]:
    """Return the widths of prompts and responses in the widest step."""
    if data is None:
        bound = step_width(config.preferences.max_tokens)
        return bound, bound
    widths = (data.widths(data.places(step)) for step in range(data.steps))
    return max(widths, key=lambda sizes: sizes[0] + 2 * sizes[1])


def _trace(config: ScoreModelConfig, shape: DecoderConfig, steps: int, prompt: int, response: int) -> Any:
    size, model = config.pairs_per_step, config.model
    decoder = abstract_decoder(
        shape, model.dtype, config.lora, wide=config.lora is None, attention=model.attention
    )
    graph, trained, frozen = split(decoder, config.lora)
    objective = score_objective(config, graph, steps)
    weights = ScoreWeights(trained, _shape((shape.hidden,), jnp.float32))
    state = shapes_of_parameters(jax.eval_shape(lambda weights: start(objective, weights), weights))
    sizes = ((size, prompt), (size,), (size, 2, response), (size, 2), (size,), (size, 2))
    batch = shapes_of_batch(ScoreBatch(*(_shape(each, jnp.int32) for each in sizes)))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return train_step.trace(objective, state, shapes_of_parameters(frozen), batch, key)


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a shape in the place of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)
