"""The part of the schema that describes PeCAN's pre-alignment; ``cann_jax.config`` holds the whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cann_jax.config.training import LoraConfig, OptimizerConfig
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class PrealignConfig:
    """DPO of π_r and π_g on human preferences, for implicit scorers with ``prealigned.preference``.

    Args:
        label_smoothing: Probability, below one half, that a label is the wrong way round.
        lora: Adapters; all pre-aligned models share the reference's weights.
        optimizer: Optimizer and schedule.
        epochs: Passes over the pairs.
        pairs_per_step: Pairs in one optimizer step.
        accumulation: Micro-batches a step; must divide ``pairs_per_step``.
        vocabulary_chunks: As ``align.vocabulary_chunks``.
        rematerialise: As ``align.rematerialise``.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Checkpoints kept, 2 or more.
    """

    label_smoothing: float = 0.0
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 1
    pairs_per_step: int = 8
    accumulation: int = 1
    vocabulary_chunks: int = 8
    rematerialise: Literal["everything", "elementwise"] = "everything"
    checkpoint_every: int = 50
    keep_checkpoints: int = 2


class ToPrealign(NamedTuple):
    """A model that the run is to pre-align.

    Args:
        preference: The label.
        beta: β of its DPO.
    """

    preference: str
    beta: float

    @property
    def stage(self) -> str:
        """Its stage, and so its folder below the run's."""
        return f"prealign/{self.preference}-beta{self.beta:g}"


def check_prealign(config: PrealignConfig) -> None:
    """Raise InputError, with key and mend, where values that fit their types cannot work together."""
    for name, value in _positive_values(config).items():
        if not value > 0:
            raise InputError(f"prealign.{name} is {value}; it must be greater than 0")
    if config.pairs_per_step % config.accumulation:
        raise InputError(
            f"prealign.accumulation is {config.accumulation}; "
            f"use a divisor of prealign.pairs_per_step, which is {config.pairs_per_step}"
        )
    if not 0 <= config.label_smoothing < 0.5:
        raise InputError(
            f"prealign.label_smoothing is {config.label_smoothing}; use 0 up to, not including, 0.5"
        )
    if not 0 <= config.lora.dropout < 1:
        raise InputError(f"prealign.lora.dropout is {config.lora.dropout}; use 0 up to, not including, 1")
    if config.keep_checkpoints < 2:
        raise InputError(f"prealign.keep_checkpoints is {config.keep_checkpoints}; use 2 or more")


def _positive_values(config: PrealignConfig) -> dict[str, float]:
    names = ("epochs", "pairs_per_step", "accumulation", "vocabulary_chunks", "checkpoint_every")
    return {name: getattr(config, name) for name in names} | {
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.clip_norm": config.optimizer.clip_norm,
        "lora.rank": config.lora.rank,
    }


def to_prealign(scorer: Mapping[str, Any]) -> ToPrealign | None:
    """What a scorer's complete dictionary asks the run to pre-align."""
    if scorer["kind"] != "implicit" or scorer["prealigned"]["preference"] is None:
        return None
    return ToPrealign(scorer["prealigned"]["preference"], scorer["beta"])


def all_to_prealign(scorers: Iterable[Mapping[str, Any]]) -> list[ToPrealign]:
    """Each once, in the order of the scorers."""
    return list(dict.fromkeys(found for scorer in scorers if (found := to_prealign(scorer))))
