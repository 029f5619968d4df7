"""What a dry run knows of the data: read where they are at hand, else bounded by the configuration."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from cann_jax.config.model import PREFERENCES, PromptSet
from cann_jax.config.run import RunConfig
from cann_jax.data.encoded_pairs import EncodedPairs, labelled
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import bucket_width, step_width
from cann_jax.data.prompts import Prompt, each_once, read_prompts
from cann_jax.models.packing import Room
from cann_jax.run.outputs import read_pairs
from cann_jax.run.prompts import encoded_prompts
from cann_jax.run.run import Run, ScoreModelRun
from cann_jax.run.training import Training, heldout_of, preference_data
from cann_jax.stages import pairs as pairs_stage
from cann_jax.training.batching import can_pack

AnyRun = TypeVar("AnyRun", Run, ScoreModelRun)


@dataclass(frozen=True)
class KnownData:
    """Prompts and training pairs, as far as they can be had without writing or asking the network."""

    prompts: Mapping[PromptSet, EncodedPrompts] = field(default_factory=dict)
    pairs: EncodedPairs | None = None

    @property
    def train(self) -> EncodedPrompts | None:
        """The training prompts."""
        return self.prompts.get("train")


@dataclass(frozen=True)
class Extent:
    """The widest batch of a program: tokens of its longest prompt and response, and the room of its rows."""

    count: int | None  # prompts or pairs in all; None where that is not known
    prompt: int
    response: int
    room: Room | None = None


def known_data(run: Run, *, opened: bool) -> KnownData:
    """Read the run's data; only bounds are known unless the model and its tokenizer are ``opened``.

    Raises:
        InputError: What would stop the run at its prompts or pairs.
    """
    sources, preferences = run.config.prompts.sources(), run.config.preferences
    if not opened:
        return KnownData()
    if preferences is not None and preferences.path is not None:
        with pairs_aside(run) as aside:
            return KnownData(
                {name: encoded_prompts(aside, name) for name in sources}, read_pairs(aside, "train")
            )
    # The stage downloads the pairs, and prompts that are theirs come with them.
    files = (name for name, source in sources.items() if source != PREFERENCES)
    return KnownData({name: encoded_prompts(run, name) for name in files})


@contextmanager
def pairs_aside(run: AnyRun) -> Iterator[AnyRun]:
    """Run the stage ``pairs`` in a folder that is deleted again, and yield the run there."""
    with tempfile.TemporaryDirectory() as folder:
        preferences = replace(run.preferences, prepared=folder)
        aside = type(run)(replace(run.config, preferences=preferences, run_dir=folder))
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
    """Return the number of prompts in a file; None for those of preference pairs."""
    return None if path == PREFERENCES else len(each_once(read_prompts(path, limit)))


def training_extent(config: RunConfig, training: Training, data: KnownData) -> Extent:
    """Return the extent of a training: of the samples, or of a data set's pairs, whose widest step counts.

    The prompts that are kept from training are not counted.

    Raises:
        InputError: No pair has the label that the training learns.
    """
    if training.supervision.from_samples:
        sampled, prompts = sampling_extent(config, data), training_prompts(config, data)
        if prompts is None or sampled.count is None:
            return sampled
        return replace(sampled, count=sampled.count - len(heldout_of(training, prompts)))
    if data.pairs is None:
        assert config.preferences is not None, "the configuration's check asks for them"
        return Extent(None, *bound_of_pairs(config.preferences.max_tokens))
    label = training.supervision.label
    pairs = data.pairs if label is None else data.pairs.take(labelled(data.pairs, label))
    # The rewards mean nothing here: the order of the steps does not depend on them.
    steps = preference_data(training, pairs.responses, np.zeros((len(pairs), 2)))
    return Extent(len(steps.trained), *steps.largest())


def bound_of_pairs(longest: int) -> tuple[int, int, Room | None]:
    """Return what an ``Extent`` says, where a prompt with either of its responses has ``longest`` tokens."""
    if can_pack():
        return longest, longest, Room(1, 2 * longest, 2 * longest)
    return step_width(longest), step_width(longest), None


def training_prompts(config: RunConfig, data: KnownData) -> Sequence[Prompt] | None:
    """Return the training prompts, before overlong ones are dropped if the tokenizer is not here."""
    if data.train is not None:
        return data.train.prompts
    path = config.prompts.train
    return None if path == PREFERENCES else each_once(read_prompts(path, config.prompts.limit))
