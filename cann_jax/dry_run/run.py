"""``--dry_run``: check everything that can be checked before the first step, and compute nothing.

Configuration, files, tensor names and shapes, prompts, preference pairs, scorers, divisibility; then sampling
and training are compiled for their real shapes, without reading a weight, and their memory is printed.
``--model_config FILE`` checks a run whose model is not at hand: the architecture comes from FILE, no model
and no tokenizer is opened, and what they alone can tell is bounded by the configuration. Nothing is written
but the compiled programs, into the user's compilation cache, where the run itself finds them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from cann_jax.config.model import PromptSet
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.dry_run.known_data import (
    Extent,
    KnownData,
    known_data,
    prompts_in,
    sampling_extent,
    training_extent,
)
from cann_jax.dry_run.output import STEPS, histogram, plan_lines, print_dry_run, shape_of_model
from cann_jax.dry_run.programs import trace_sampling, trace_training
from cann_jax.files.console import console
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.generation import not_applied
from cann_jax.run.checks import check_prompts, check_warmup
from cann_jax.run.exports import check_exports
from cann_jax.run.run import Run
from cann_jax.run.scorers import code_of, context_of
from cann_jax.run.stages import Pipeline
from cann_jax.run.training import Training, alignment, prealignments, training_folders
from cann_jax.sampling.shards import stop_tokens
from cann_jax.scorers import ScorerKind
from cann_jax.training.batch_order import steps_in


class _Planned(NamedTuple):
    name: str
    training: Training
    extent: Extent
    steps: int | None  # None where the data are not here to count them


def dry_run(run: Run, stages: Pipeline, model_config: str | None = None) -> None:
    """Print what the run of these stages would do and need.

    ``model_config`` is a ``config.json`` to go by in place of the model's files.

    Raises:
        InputError: What would stop it.
    """
    out, opened = console(), model_config is None
    shape = shape_of_model(run, model_config, out)
    data = known_data(run, opened=opened)
    check_prompts(run.config, data.prompts)
    if opened and "export" in {stage.name for stage in stages}:
        check_exports(run)
    lines = not_applied(run.files.generation) if opened else []
    lines += [*_data_lines(run, data), *_scorer_lines(run, data, opened)]
    planned = [_planned(run, name, training, data) for name, training in trainings(run).items()]
    sampled = sampling_extent(run.config, data)
    lines += [_sampling_line(run, sampled), *map(_training_line, planned)]
    lines += plan_lines(run, stages, opened=opened)
    print_dry_run(out, run, lines, lambda: _programs(run, shape, sampled, planned, opened), opened=opened)


def _planned(run: Run, name: str, training: Training, data: KnownData) -> _Planned:
    extent, batching = training_extent(run.config, training, data), training.batching
    if extent.count is None:
        return _Planned(name, training, extent, None)
    steps = steps_in(batching.epochs, extent.count, batching.prompts_per_step)
    check_warmup(training.key, training.settings.optimizer, steps)
    return _Planned(name, training, extent, steps)


def _data_lines(run: Run, data: KnownData) -> Iterator[str]:
    for name in run.config.prompts.sources():
        yield f"prompts.{name}: {_prompts_line(run, name, data.prompts.get(name))}"
    if data.train is not None:
        yield "tokens of the training prompts, template included:"
        yield from histogram(np.array([len(ids) for ids in data.train.ids]))
    preferences = run.config.preferences
    if data.pairs is not None:
        yield "tokens of the training pairs, both responses included:"
        yield from histogram(data.pairs.responses.total_tokens)
    elif preferences is not None:
        yield f"preferences: not read; taken to fill preferences.max_tokens, {preferences.max_tokens}"


def _prompts_line(run: Run, name: PromptSet, prompts: EncodedPrompts | None) -> str:
    if prompts is not None:
        return f"{len(prompts)} kept, {prompts.dropped} dropped, {prompts.truncated} cut on the left"
    settings = run.config.prompts
    count = prompts_in(settings.sources()[name], settings.limit)
    found = "not read" if count is None else f"{count}, not tokenized"
    return f"{found}; taken to fill prompts.max_tokens, {settings.max_tokens}"


def _scorer_lines(run: Run, data: KnownData, opened: bool) -> Iterator[str]:
    """Load and probe the scorers that need no model; a table must score every response to come.

    A user's function is called once.
    """
    config = run.config
    for name, (key, settings) in (config.trained_on() | config.measured()).items():
        kind = cast(ScorerKind, settings)
        with code_of(kind, key):
            scorer = kind.check(context_of(run, key, opened=opened))
            if scorer is not None and data.train is not None:
                scorer.expect(data.train.prompts, config.sample.responses)
        probed = ", probed" if scorer is not None and getattr(settings, "probe", None) else ""
        yield f"scorer {name}: {settings.kind}{probed}"


def trainings(run: Run) -> dict[str, Training]:
    """Return every preference training of a run, by a name for people."""
    own = {f"prealign/{name}": training for name, training in prealignments(run.config).items()}
    names = training_folders(run.config)
    return own | {"training" if name == names[-1] else name: alignment(run.config) for name in names}


def _sampling_line(run: Run, sampled: Extent) -> str:
    sample, count = run.config.sample, sampled.count
    prompts = f"up to {run.config.prompts.limit or 'all'}" if count is None else count
    return (
        f"sampling: {prompts} prompts × {sample.responses} responses of up to {sample.max_new_tokens} tokens"
    )


def _training_line(planned: _Planned) -> str:
    batching, extent, steps = planned.training.batching, planned.extent, planned.steps
    size, group = batching.prompts_per_step, batching.group_size
    tokens, pairs = size * (extent.prompt + group * extent.response), size * group * (group - 1) // 2
    if extent.room is not None:
        tokens = size // extent.room.groups * extent.room.tokens
    terms = f"{size} groups of {group}" if planned.training.loss == "listwise" else f"{pairs} pairs"
    number = "steps (their number comes with the data)" if steps is None else f"{steps} steps"
    return f"{planned.name}: {number} of up to {tokens} tokens and {terms} each, padding included"


def _programs(
    run: Run, shape: DecoderConfig, sampled: Extent, planned: list[_Planned], opened: bool
) -> dict[str, Any]:
    """Trace sampling, the reference's pass over a training step and that step, each at its widest.

    Of a pre-alignment only the step is traced, because the reference's pass needs less.
    """
    sample, model = run.config.sample, run.config.model
    # One token of each text, and the tokenizer's own: what a tokenizer that is not here would say.
    stop = len(stop_tokens(run.files, sample)) if opened else 1 + len(sample.stop)
    programs = {"sampling": trace_sampling(run.config, shape, sampled.prompt, stop)}
    for name, training, extent, steps in planned:
        sizes = (extent.prompt, steps or STEPS, extent.response, extent.room)
        traced = trace_training(model, training, shape, *sizes)
        programs |= traced if name == "training" else {name: traced["training step"]}
    return programs
