"""Settings of ``python -m cann_jax.reward``: a reward or cost model from human preferences."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cann_jax.config.job import JobConfig
from cann_jax.config.preferences import Dimension, PreferencesConfig
from cann_jax.config.ranges import (
    SYSTEM_UNREAD,
    TEMPLATE_DATE,
    Date,
    NextTurn,
    NonNegative,
    PositiveInt,
    Probability,
    Template,
)
from cann_jax.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ScoreModelConfig(JobConfig, TrainingConfig):
    """A reward or cost model.

    Args:
        preferences: The pairs.
        objective: ``reward``: Bradley-Terry on ``dimension``, larger is better. ``cost``: the pairwise and
            sign terms of Safe-RLHF, larger is more harmful; its pairs are those that say which is safer.
        dimension: What the reward's pairs are preferred for.
        template: ``chat`` for the tokenizer's chat template, or a text that holds ``{prompt}``.
        next_turn: What follows ``template`` for a further turn, with ``{reply}`` and ``{prompt}``.
        system: System message of the chat template; null leaves the template's default.
        date: The day that the chat template takes for today, in quotation marks; templates that write a date
            would else give other ids every day.
        pairs_per_step: Pairs in one optimizer step.
        regularization: Weight of the mean squared score, which pins the constant that pairs leave free.
        confidence: Level of the interval of the held-out accuracy.
        export: Layout of the folder ``model``: ``safe_rlhf`` or ``hf`` (a sequence classifier).
    """

    preferences: PreferencesConfig
    objective: Literal["reward", "cost"] = "reward"
    dimension: Dimension = "better"
    template: Template = "chat"
    next_turn: NextTurn | None = None
    system: str | None = None
    date: Date = TEMPLATE_DATE
    pairs_per_step: PositiveInt = 16
    regularization: NonNegative = 0.001
    confidence: Probability = 0.95
    export: Literal["safe_rlhf", "hf"] = "safe_rlhf"

    @property
    def label(self) -> Dimension:
        """The dimension whose labels are learnt."""
        return "safer" if self.objective == "cost" else self.dimension

    def batches(self) -> dict[str, int]:
        """Return the batch sizes that the mesh must divide, by key."""
        return {"pairs_per_step / accumulation": self.pairs_per_step // self.accumulation}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if self.system is not None and self.template != "chat":
            yield "system", SYSTEM_UNREAD
        yield from self.uneven("pairs_per_step")
