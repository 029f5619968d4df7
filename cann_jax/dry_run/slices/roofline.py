"""How long a compiled program must take on a chip, and what share of the peak that leaves to the model."""

from dataclasses import dataclass

from cann_jax.dry_run.slices.chips import Slice
from cann_jax.dry_run.slices.compiler import Compiled
from cann_jax.dry_run.slices.traffic import Traffic, traffic


@dataclass(frozen=True)
class Need:
    """What one run of a program needs of each device.

    Args:
        arguments: Bytes held by its arguments.
        temporaries: Bytes of its temporaries.
        peak: Largest bytes in use at once.
        flops: Operations of its matrix products, recomputation included.
        moved: Bytes to and from memory, and between devices.
    """

    arguments: float
    temporaries: float
    peak: float
    flops: float
    moved: Traffic

    @classmethod
    def of(cls, compiled: Compiled, flops: float) -> "Need":
        """Of a compiled program whose products take ``flops`` on each device."""
        return cls(compiled.arguments, compiled.temporaries, compiled.peak, flops, traffic(compiled.text))

    @property
    def received(self) -> float:
        return sum(self.moved.received.values())


@dataclass(frozen=True)
class Times:
    """Lower bounds of a program's time in seconds, each as if it alone counted."""

    compute: float
    memory: float
    interconnect: float

    @classmethod
    def of(cls, need: Need, where: Slice) -> "Times":
        chip = where.chip
        return cls(
            need.flops / chip.flops,
            need.moved.memory / chip.memory_bandwidth,
            need.received / where.interconnect if where.chips > 1 else 0.0,
        )

    @property
    def bound(self) -> str:
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))

    @property
    def longest(self) -> float:
        return getattr(self, self.bound)


def utilisation(model_flops: float, times: Times, where: Slice) -> float:
    """Upper bound of model FLOPs utilisation: what the model asks for over what the peak does in that time.

    Args:
        model_flops: Of all devices together.
        times: Of the program.
        where: What it runs on.
    """
    return model_flops / (where.chips * where.chip.flops * times.longest)
