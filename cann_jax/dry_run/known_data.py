"""What a dry run knows of its data: read where they lie here, else bounded by the configuration."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from cann_jax.config.run import PREFERENCES, RunConfig
from cann_jax.data.encoded_pairs import EncodedPairs, labelled
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import bucket_width, step_width
from cann_jax.data.prompts import read_prompts
from cann_jax.run.outputs import read_pairs
from cann_jax.run.run import Run
from cann_jax.run.training import batching_of
from cann_jax.stages.pairs import run_pairs
from cann_jax.training.batch_order import steps_in
from cann_jax.training.preference_data import PreferenceData


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
        response: Of the longest response.
    """

    count: int | None
    prompt: int
    response: int


def known_data(run: Run, *, opened: bool) -> KnownData:
    """Args: ``opened`` says whether the model's tokenizer may be asked; without it only bounds are known.

    Raises:
        InputError: what would stop the run at its prompts or pairs.
    """
    preferences = run.config.preferences
    if not opened:
        return KnownData()
    if preferences is None:
        return KnownData(run.train_prompts, run.heldout_prompts)
    if preferences.path is None:  # the stage downloads them
        prompts = run.config.prompts
        return KnownData(
            None if prompts.train == PREFERENCES else run.train_prompts,
            None if prompts.heldout == PREFERENCES else run.heldout_prompts,
        )
    with _pairs_aside(run) as aside:
        return KnownData(aside.train_prompts, aside.heldout_prompts, read_pairs(aside, "train"))


@contextmanager
def _pairs_aside(run: Run) -> Iterator[Run]:
    """The run with its stage ``pairs`` in a folder that goes away again."""
    assert run.config.preferences is not None  # its caller has seen it
    with tempfile.TemporaryDirectory() as folder:
        preferences = replace(run.config.preferences, prepared=folder)
        aside = Run(replace(run.config, preferences=preferences, run_dir=folder))
        run_pairs(aside)
        yield aside


def _trained_on(config: RunConfig, pairs: EncodedPairs) -> PreferenceData:
    """The pairs in the order of the steps; their rewards and log-probs mean nothing.

    Raises:
        InputError: none has the label that is asked for.
    """
    preference = config.align.preference
    chosen = pairs if preference == "pseudo_reward" else pairs.take(labelled(pairs, preference))
    responses = chosen.responses()
    return PreferenceData(batching_of(config), responses, np.zeros(responses.shape), responses.logps)


def sampling_extent(config: RunConfig, data: KnownData) -> Extent:
    """Of the training prompts."""
    length = config.sample.max_new_tokens
    if data.train is None:
        count = prompts_in(config.prompts.train, config.prompts.limit)
        return Extent(count, bucket_width(config.prompts.max_tokens), length)
    return Extent(len(data.train), bucket_width(max(map(len, data.train.ids))), length)


def prompts_in(path: str, limit: int | None) -> int | None:
    """Prompts in a file; None for those of preference pairs.

    Raises:
        InputError: the file is missing, empty or malformed.
    """
    return None if path == PREFERENCES else len(read_prompts(path, limit))


def training_extent(config: RunConfig, data: KnownData) -> Extent:
    """Of the samples, or of the data set's pairs, whose steps differ in width: the widest counts."""
    if config.align.pairs == "samples":
        return sampling_extent(config, data)
    if data.pairs is None:
        assert config.preferences is not None  # the configuration's check asks for it
        bound = step_width(config.preferences.max_tokens)
        return Extent(None, bound, bound)
    pairs = _trained_on(config, data.pairs)
    widths = (pairs.widths(*pairs.places(step)) for step in range(pairs.steps))
    return Extent(pairs.responses.shape[0], *max(widths, key=lambda sizes: sizes[0] + 2 * sizes[1]))


def training_steps(config: RunConfig, extent: Extent) -> int | None:
    """Steps of the training; None where the data are not here to count them."""
    if extent.count is None:
        return None
    return steps_in(config.align.epochs, extent.count, config.align.prompts_per_step)
