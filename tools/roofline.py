"""Lower bounds of a compiled program's time on a chip, and what utilisation they allow (a roofline)."""

from dataclasses import dataclass

from cann_jax_tools.chips import Slice
from cann_jax_tools.compiler import Compiled
from cann_jax_tools.traffic import Traffic, traffic


@dataclass(frozen=True)
class Need:
    """What one execution of a program needs of each device.

    Args:
        arguments: Bytes of the arguments.
        temporaries: Bytes of the temporaries.
        peak: Peak of the bytes in use.
        flops: Operations of the matrix products, recomputation included.
        moved: Bytes to and from memory, and between devices.
    """

    arguments: float
    temporaries: float
    peak: float
    flops: float
    moved: Traffic

    @classmethod
    def of(cls, compiled: Compiled, flops: float) -> "Need":
        """Return the needs of a compiled program whose products take ``flops`` on each device."""
        return cls(compiled.arguments, compiled.temporaries, compiled.peak, flops, traffic(compiled.text))

    @property
    def received(self) -> float:
        """Bytes received from other devices."""
        return sum(self.moved.received.values())


@dataclass(frozen=True)
class Times:
    """Lower bounds of a program's time in seconds, each as if nothing else took time."""

    compute: float
    memory: float
    interconnect: float

    @classmethod
    def of(cls, need: Need, where: Slice) -> "Times":
        """Return the bounds for a program's needs on the chips of a slice."""
        chip = where.chip
        return cls(
            need.flops / chip.flops,
            need.moved.memory / chip.memory_bandwidth,
            need.received / where.interconnect if where.chips > 1 else 0.0,
        )

    @property
    def bound(self) -> str:
        """What takes longest: compute, memory or interconnect."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))

    @property
    def longest(self) -> float:
        """The largest of the bounds, in seconds."""
        return max(self.compute, self.memory, self.interconnect)


def utilisation(model_flops: float, seconds: float, where: Slice) -> float:
    """Return an upper bound of model FLOPs utilisation.

    Args:
        model_flops: Operations that the model needs, on all devices together.
        seconds: Lower bound of the program's time.
        where: The slice that it runs on.
    """
    return model_flops / (where.chips * where.chip.flops * seconds)
