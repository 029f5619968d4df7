"""What a dry run knows of the data: read where they are at hand, else bounded by the configuration."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from cann_jax.config.model import PREFERENCES
from cann_jax.config.run import RunConfig
from cann_jax.data.encoded_pairs import EncodedPairs, labelled
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import bucket_width, step_width
from cann_jax.data.prompts import read_prompts
from cann_jax.run.outputs import read_pairs
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run
from cann_jax.run.training import Training, preference_data
from cann_jax.stages import pairs as pairs_stage
from cann_jax.training.batch_order import steps_in


@dataclass(frozen=True)
class KnownData:
    """A run's data, as far as they can be had without writing anything or asking the network.

    Args:
        train: Training prompts.
        heldout: Held-out prompts.
        pairs: Training pairs of the preference data set.
    """

    train: EncodedPrompts | None = None
    heldout: EncodedPrompts | None = None
    pairs: EncodedPairs | None = None


@dataclass(frozen=True)
class Extent:
    """The widest batch of a program.

    Args:
        count: Prompts or pairs in all; None where that is not known.
        prompt: Tokens of the longest prompt, padding included.
        response: Tokens of the longest response, padding included.
    """

    count: int | None
    prompt: int
    response: int


def known_data(run: Run, *, opened: bool) -> KnownData:
    """Read the run's data.

    Args:
        run: The run.
        opened: Whether the model's tokenizer is at hand; without it only bounds are known.

    Raises:
        InputError: What would stop the run at its prompts or pairs.
    """
    preferences = run.config.preferences
    if not opened:
        return KnownData()
    if preferences is None:
        return KnownData(encoded_prompts(run, "train"), encoded_prompts(run, "heldout"))
    if preferences.path is None:  # the stage downloads them
        prompts = run.config.prompts
        return KnownData(
            None if prompts.train == PREFERENCES else encoded_prompts(run, "train"),
            None if prompts.heldout == PREFERENCES else encoded_prompts(run, "heldout"),
        )
    with _pairs_aside(run) as aside:
        train, heldout = encoded_prompts(aside, "train"), encoded_prompts(aside, "heldout")
        return KnownData(train, heldout, read_pairs(aside, "train"))


@contextmanager
def _pairs_aside(run: Run) -> Iterator[Run]:
    """Run the stage ``pairs`` in a folder that is deleted again, and yield the run there."""
    with tempfile.TemporaryDirectory() as folder:
        preferences = replace(run.preferences, prepared=folder)
        aside = Run(replace(run.config, preferences=preferences, run_dir=folder))
        pairs_stage.run(aside)
        yield aside


def sampling_extent(config: RunConfig, data: KnownData) -> Extent:
    """Return the extent of the training prompts and their samples."""
    length = config.sample.max_new_tokens
    if data.train is None:
        count = prompts_in(config.prompts.train, config.prompts.limit)
        return Extent(count, bucket_width(config.prompts.max_tokens), length)
    return Extent(len(data.train), bucket_width(max(map(len, data.train.ids))), length)


def prompts_in(path: str, limit: int | None) -> int | None:
    """Return the number of prompts in a file; None for those of preference pairs.

    Raises:
        InputError: The file is missing, empty or malformed.
    """
    return None if path == PREFERENCES else len(read_prompts(path, limit))


def training_extent(config: RunConfig, training: Training, data: KnownData) -> Extent:
    """Return the extent of a training: of the samples, or of a data set's pairs, whose widest step counts.

    Raises:
        InputError: No pair has the label that the training learns.
    """
    if training.supervision.from_samples:
        return sampling_extent(config, data)
    if data.pairs is None:
        assert config.preferences is not None, "the configuration's check asks for them"
        bound = step_width(config.preferences.max_tokens)
        return Extent(None, bound, bound)
    label = training.supervision.label
    responses = (data.pairs if label is None else data.pairs.take(labelled(data.pairs, label))).responses()
    # The rewards mean nothing here: the order of the steps does not depend on them.
    steps = preference_data(training.batching, responses, np.zeros(responses.shape))
    widths = (steps.widths(*steps.places(step)) for step in range(steps.steps))
    return Extent(responses.shape[0], *max(widths, key=lambda sizes: sizes[0] + 2 * sizes[1]))


def training_steps(training: Training, extent: Extent) -> int | None:
    """Return the number of steps; None where the data are not here to count them."""
    if extent.count is None:
        return None
    return steps_in(training.batching.epochs, extent.count, training.batching.prompts_per_step)
