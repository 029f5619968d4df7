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

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        targets = (self.margin, self.at_least, self.max_unsafe)
        if sum(target is not None for target in targets) != 1:
            yield "", "needs exactly one of margin, at_least and max_unsafe"
