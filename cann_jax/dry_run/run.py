"""``--dry_run``: check everything that can be checked before the first step, and compute nothing.

Configuration, files, tensor names and shapes, prompts, preference pairs, scorers, divisibility; then sampling
and training are compiled for their real shapes, without reading a weight, and their memory is printed.
``--model_config FILE`` checks a run whose model is not at hand: the architecture comes from FILE, no model
and no tokenizer is opened, and what they alone can tell is bounded by the configuration. Nothing is written
but the compiled programs, into the user's compilation cache, where the run itself finds them.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.dry_run.known_data import (
    Extent,
    KnownData,
    known_data,
    prompts_in,
    sampling_extent,
    training_extent,
    training_steps,
)
from cann_jax.dry_run.memory import STEPS, histogram, memory_table, shape_of_model
from cann_jax.dry_run.plan import plan_lines
from cann_jax.dry_run.programs import trace_sampling, trace_training
from cann_jax.files.console import console
from cann_jax.models.config import DecoderConfig
from cann_jax.run.checks import check_groups, check_warmup
from cann_jax.run.run import Run
from cann_jax.run.scorers import context_of
from cann_jax.run.stages import Pipeline
from cann_jax.run.training import Training, alignment, prealignments
from cann_jax.sampling.shards import stop_tokens
from cann_jax.scorers import ScorerKind


def dry_run(run: Run, stages: Pipeline, model_config: str | None = None) -> None:
    """Print what the run would do and need.

    Args:
        run: The run.
        stages: The stages that would run.
        model_config: A ``config.json`` to go by in place of the model's files.

    Raises:
        InputError: What would stop it.
    """
    out = console()
    opened = model_config is None
    shape = shape_of_model(lambda: run.files, run.config.model, model_config, out)
    data = known_data(run, opened=opened)
    if data.train is not None:
        check_groups(run.config, data.train)
    for line in (*_data_lines(run, data), *_scorer_lines(run, data, opened), *_step_lines(run, data)):
        out.print(line, markup=False)
    for line in plan_lines(run, stages, opened=opened):
        out.print(line, markup=False)
    out.print(memory_table(_programs(run, shape, data, opened)))
    out.print(f"nothing was computed, and {run.folder} is as it was", markup=False)


def _data_lines(run: Run, data: KnownData) -> Iterator[str]:
    for name, prompts in (("train", data.train), ("heldout", data.heldout)):
        yield f"prompts.{name}: {_prompts_line(run, name, prompts)}"
    if data.train is not None:
        yield "tokens of the training prompts, template included:"
        yield from histogram(np.array([len(ids) for ids in data.train.ids]))
    preferences = run.config.preferences
    if data.pairs is not None:
        yield "tokens of the training pairs, both responses included:"
        yield from histogram(data.pairs.lengths)
    elif preferences is not None:
        yield f"preferences: not read; taken to fill preferences.max_tokens, {preferences.max_tokens}"


def _prompts_line(run: Run, name: str, prompts: EncodedPrompts | None) -> str:
    if prompts is not None:
        return f"{len(prompts)} kept, {prompts.dropped} dropped, {prompts.truncated} cut on the left"
    settings = run.config.prompts
    count = prompts_in(getattr(settings, name), settings.limit)
    found = "not read" if count is None else f"{count}, not tokenized"
    return f"{found}; taken to fill prompts.max_tokens, {settings.max_tokens}"


def _scorer_lines(run: Run, data: KnownData, opened: bool) -> Iterator[str]:
    """Load and probe the scorers that need no model; a table must score every response to come."""
    config = run.config
    for name, (key, settings) in (config.trained_on() | config.measured()).items():
        scorer = cast(ScorerKind, settings).check(context_of(run, key, opened=opened))
        if scorer is not None and data.train is not None:
            scorer.expect(data.train.prompts, config.sample.responses)
        probed = ", probed" if scorer is not None and getattr(settings, "probe", None) else ""
        yield f"scorer {name}: {settings.kind}{probed}"


def trainings(run: Run) -> dict[str, Training]:
    """Return every preference training of a run, by a name for people."""
    own = {f"prealign/{name}": training for name, training in prealignments(run.config).items()}
    return own | {"training": alignment(run.config)}


def _step_lines(run: Run, data: KnownData) -> Iterator[str]:
    sample, count = run.config.sample, sampling_extent(run.config, data).count
    prompts = f"up to {run.config.prompts.limit or 'all'}" if count is None else count
    length = sample.max_new_tokens
    yield f"sampling: {prompts} prompts × {sample.responses} responses of up to {length} tokens"
    for name, training in trainings(run).items():
        yield f"{name}: {_steps(training, training_extent(run.config, training, data))}"


def _steps(training: Training, extent: Extent) -> str:
    batching, steps = training.batching, training_steps(training, extent)
    size, group = batching.prompts_per_step, batching.group_size
    tokens, pairs = size * (extent.prompt + group * extent.response), size * group * (group - 1) // 2
    if steps is not None:
        check_warmup(training.key, training.settings.optimizer, steps)
    number = "steps (their number comes with the data)" if steps is None else f"{steps} steps"
    return f"{number} of up to {tokens} tokens and {pairs} pairs each, padding included"


def _programs(run: Run, shape: DecoderConfig, data: KnownData, opened: bool) -> dict[str, Any]:
    """Trace sampling, the reference's pass over a training step and that step, each at its widest.

    Of a pre-alignment only the step is traced, because the reference's pass needs less.
    """
    sample, widest = run.config.sample, sampling_extent(run.config, data)
    # One token of each text, and the tokenizer's own: what a tokenizer that is not here would say.
    stop = len(stop_tokens(run.files.tokenizer, sample)) if opened else 1 + len(sample.stop)
    programs = {"sampling": trace_sampling(run.config, shape, widest.prompt, stop)}
    for name, training in trainings(run).items():
        extent = training_extent(run.config, training, data)
        steps = training_steps(training, extent) or STEPS
        traced = trace_training(run.config.model, training, shape, extent.prompt, steps, extent.response)
        programs |= traced if name == "training" else {name: traced["training step"]}
    return programs
