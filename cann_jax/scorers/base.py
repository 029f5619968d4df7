"""What a scorer kind provides, and the checks that all scorers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cann_jax.config.model import PromptsConfig
from cann_jax.config.scorers import Better, ScorerConfig, ToPrealign
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError

# Models are imported where they are used, as in all kinds: their code takes seconds, which --help, for which
# every kind's settings are read, need not wait for.
if TYPE_CHECKING:
    from cann_jax.models.files.model_files import ModelFiles
    from cann_jax.models.language_model import LanguageModel


@dataclass(frozen=True)
class Probe:
    """Two responses whose order a scorer must get right when it loads.

    Args:
        prompt: The prompt of both responses.
        better: The response that must score higher.
        worse: The response that must score lower.
    """

    prompt: str
    better: str
    worse: str


@dataclass(frozen=True)
class Scored:
    """Scores of a block of responses.

    Args:
        values: (N, K) float32; larger is better, whatever the scorer's own sign.
        counts: Events worth reporting, by name.
    """

    values: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


class Scorer(ABC):
    """A loaded scorer."""

    @abstractmethod
    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        """Score responses; ``reference_logps (N, K)`` is log π_ref(y|x) of each, nats."""

    def expect(self, prompts: Sequence[Prompt], responses: int) -> str | None:
        """Check, before anything is scored, that every response can be; return a line to print.

        ``responses`` is the number of responses to each of ``prompts``.

        Raises:
            InputError: A response has no score.
        """
        return None


@dataclass(frozen=True)
class Context:
    """What a scorer may ask of the run that it scores for.

    Args:
        key: Where its settings stand in the configuration, for messages.
        prompts: The run's template.
        files: Files of π_ref; None where its model is not at hand.
        reference: Loads π_ref.
        prealigned: Finds the adapter of a model that the run pre-aligned.
    """

    key: str
    prompts: PromptsConfig
    files: "ModelFiles | None"
    reference: "Callable[[], LanguageModel]"
    prealigned: Callable[[ToPrealign], Path]


class ScorerKind(ScorerConfig, ABC):
    """Settings of one kind of scorer, and how to check, identify and load it.

    A kind is a frozen dataclass that derives from this class and declares its keys as fields, with their
    meaning under ``Args``. It is registered in ``cann_jax.config.scorers.KINDS``, or by an entry point of the
    group ``cann_jax.scorers``.
    """

    @abstractmethod
    def load(self, context: Context) -> Scorer:
        """Load and probe the scorer.

        Raises:
            InputError: Something that it needs is missing, or its probe fails.
        """

    def check(self, context: Context) -> Scorer | None:
        """Find what is wrong without reading a model's weights.

        Returns:
            The scorer, loaded and probed, where it needs no model; else None.

        Raises:
            InputError: As ``load``.
        """
        return self.load(context)

    def identity(self, context: Context) -> dict[str, str]:
        """Return fingerprints of everything besides these settings and π_ref that the scores depend on."""
        return {}


class TextScorer(Scorer):
    """A scorer that reads texts alone."""

    @abstractmethod
    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        """Return one score for each prompt and response."""

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        scored = self.score_texts(responses.prompt_texts(), responses.flat_texts())
        return Scored(scored.values.reshape(responses.shape), scored.counts)


class DialogueScorer(TextScorer):
    """A scorer that reads prompts with the turns before them, and texts of responses."""

    @abstractmethod
    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        """Return one score for each prompt and response."""

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        prompts = [prompt for prompt in responses.prompts.prompts for _ in range(responses.shape[1])]
        scored = self.score_prompts(prompts, responses.flat_texts())
        return Scored(scored.values.reshape(responses.shape), scored.counts)

    def score_texts(self, prompts: Sequence[str], responses: Sequence[str]) -> Scored:
        """Score prompts of one turn, with their numbers as ids."""
        return self.score_prompts([Prompt(str(n), text) for n, text in enumerate(prompts)], responses)


@dataclass(frozen=True, kw_only=True)
class ProbedKind(ScorerKind):
    """A kind whose scorer reads texts alone, and so can be probed when it loads.

    Args:
        probe: A pair checked at load.
    """

    probe: Probe | None = None

    @abstractmethod
    def open(self, context: Context) -> TextScorer:
        """Load the scorer; raises as ``load``."""

    def load(self, context: Context) -> TextScorer:
        scorer, probe = self.open(context), self.probe
        if probe is not None:
            better, worse = scorer.score_texts([probe.prompt] * 2, [probe.better, probe.worse]).values
            if not better > worse:
                raise InputError(
                    f"{context.key}: the probe's better response scores {better:.4g} and the worse one "
                    f"{worse:.4g}; check which way is better, or the probe"
                )
        return scorer


def sign(better: Better) -> int:
    """Return what a score is multiplied by so that larger is better."""
    return 1 if better == "higher" else -1


def check_lengths(tokens: Iterable[int], longest: int, prompts: Sequence[Prompt], key: str) -> None:
    """Raise InputError if a prompt and response, of so many ``tokens`` together, are too long for a model."""
    for count, prompt in zip(tokens, prompts, strict=True):
        if count > longest:
            raise InputError(
                f"{key}: prompt {prompt.id!r} with a response has {count} tokens in the scorer's template "
                f"and {longest} fit its model; shorten it, or lower sample.max_new_tokens"
            )


def check_finite(values: np.ndarray, responses: Responses, key: str) -> None:
    """Raise InputError, naming scorer and rows, if a score is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        rows = ", ".join(f"prompt {responses.prompts.prompts[n].id!r} response {k}" for n, k in bad[:3])
        more = ", …" if len(bad) > 3 else ""
        raise InputError(
            f"{key}: {len(bad)} scores are NaN or infinite ({rows}{more}); fix the scorer or its input"
        )
