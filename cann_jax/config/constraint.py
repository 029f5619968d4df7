"""What a constraint asks of its score, in a run's configuration and in the core alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from cann_jax.config.ranges import Must


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One constraint; exactly one of ``margin``, ``at_least`` and ``max_unsafe``.

    Args:
        margin: Required improvement of the mean score over the reference, in the score's units.
        at_least: Required mean score, in the score's units.
        max_unsafe: Largest share of responses that may score below ``unsafe_below``.
        unsafe_below: The score under which a response is unsafe.
        group: Only prompts of this ``group`` count; null takes all.
        clip: Scores are cut to [low, high] first; null leaves them.
    """

    margin: float | None = None
    at_least: float | None = None
    max_unsafe: Annotated[float, Interval(ge=0, lt=1)] | None = None
    unsafe_below: float = 0.0
    group: str | None = None
    clip: (
        Annotated[tuple[float, float], Must("[low, high] with low < high", lambda c: c[0] < c[1])] | None
    ) = None

    @property
    def goal(self) -> str:
        """Which of the three is asked: ``margin``, ``at_least`` or ``max_unsafe``."""
        goals = ("margin", "at_least", "max_unsafe")
        return next(name for name in goals if getattr(self, name) is not None)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        targets = (self.margin, self.at_least, self.max_unsafe)
        if sum(target is not None for target in targets) != 1:
            yield "", "needs exactly one of margin, at_least and max_unsafe"
        if self.max_unsafe is None and self.unsafe_below != 0:
            yield "unsafe_below", "does nothing without max_unsafe; set that, or leave it out"
        name = "at_least" if self.at_least is not None else "unsafe_below"
        level = self.at_least if self.max_unsafe is None else self.unsafe_below
        if self.clip is not None and level is not None and not self.clip[0] < level <= self.clip[1]:
            low, high = self.clip
            what = "every clipped score is above it" if level <= low else "no clipped score reaches it"
            yield (
                name,
                f"is {level:g}, and clip [{low:g}, {high:g}]: {what}; set one of them so that it tells",
            )
