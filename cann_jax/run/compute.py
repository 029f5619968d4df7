"""What a run costs, counted where policies are trained and responses sampled, and kept in the manifests."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from etils import epath

from cann_jax.run.manifest import recorded_compute


@dataclass(frozen=True)
class Compute:
    """What was spent.

    Args:
        policy_rounds: Trainings of a policy, each from its start to its end.
        generated_tokens: Tokens of all responses that were sampled, end tokens included.
        training_flops: Operations of all trainings, as docs/metrics.md counts them.
        seconds: Wall time of the processes that ended the work.
    """

    policy_rounds: int = 0
    generated_tokens: int = 0
    training_flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Compute") -> "Compute":
        return Compute(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Meter:
    """Counts what is spent from now on; ``counted`` leaves out the time that goes by."""

    counted: Compute = field(default_factory=Compute)
    start: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> Compute:
        """What was spent until now."""
        return self.counted + Compute(seconds=time.monotonic() - self.start)


class Ledger:
    """The meters that run at present, one inside the other; what is spent counts in all of them.

    ``before`` is what the stages have cost that the stage at work reads, directly or through others.
    """

    def __init__(self) -> None:
        self.before: dict[str, Compute | None] = {}
        self._meters: list[Meter] = []

    def add(self, spent: Compute) -> None:
        """Count something that was spent now, or by a process before this one."""
        for meter in self._meters:
            meter.counted += spent

    @contextmanager
    def metered(self) -> Iterator[Meter]:
        """Count what is spent within this context."""
        self._meters.append(Meter())
        try:
            yield self._meters[-1]
        finally:
            self._meters.pop()

    @property
    def total(self) -> Compute:
        """What the stage at work has spent."""
        return self._meters[0].total if self._meters else Compute()


def compute_of(folder: epath.PathLike) -> Compute | None:
    """Return what a stage, or a part of one, has cost; None where its manifest does not tell."""
    try:
        return Compute(**recorded_compute(folder))
    except TypeError:  # no manifest, or one without a cost
        return None


def summed(stages: dict[str, Compute | None]) -> dict[str, Any]:
    """Return the sum over stages, and each stage's own; null where one of them is not known."""
    known = [each for each in stages.values() if each is not None]
    total = sum(known, Compute()) if len(known) == len(stages) else None
    sums = asdict(total) if total is not None else dict.fromkeys(asdict(Compute()))
    return sums | {"stages": {name: each and asdict(each) for name, each in stages.items()}}
