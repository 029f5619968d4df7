"""Specifications of TPU chips and GPUs, and slices of them by name.

Sources: the specification tables of cloud.google.com/tpu/docs/v5e, /v5p and /v6e (HBM bandwidth,
bidirectional interconnect bandwidth of all ports together), and NVIDIA's data sheets of A100 (SXM), H100
(SXM) and H200 (memory bandwidth, NVLink in both directions together; of machines with 8); read November 2026.
"""

import math
from dataclasses import dataclass

from cann_jax.files.errors import InputError
from cann_jax.runtime.devices import DEVICES


@dataclass(frozen=True)
class Chip:
    """One chip.

    Args:
        flops: Peak bfloat16 operations per second.
        memory: HBM capacity in bytes.
        memory_bandwidth: HBM bandwidth in bytes/s.
        port_bandwidth: Bandwidth of one interconnect port in one direction, in bytes/s.
        torus_axis: Length from which an axis of a slice closes to a ring.
        largest: Chips along each axis of the largest slice, from the shortest; GPUs of a machine.
        float32: Peak of float32 products as a share of ``flops``, by JAX's default precision: a TPU rounds
            their factors to bfloat16, a GPU to TF32 (the docstring of ``jax.lax.Precision``).
        cloud_name: Accelerator type as Google Cloud spells it.
        cores_named: What a chip counts as in the number behind it; v5p counts its two cores.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    port_bandwidth: float
    torus_axis: int
    largest: tuple[int, ...]
    float32: float
    cloud_name: str
    cores_named: int

    def peak(self, dtype: str) -> float:
        """Return the peak operations per second of products in ``float32`` or ``bfloat16``."""
        return self.flops * (self.float32 if dtype == "float32" else 1)


CHIPS = {
    "v5e": Chip(*DEVICES["TPU v5 lite"], 819e9, 400e9 / 2 / 4, 16, (16, 16), 1, "v5litepod", 1),
    "v5p": Chip(*DEVICES["TPU v5"], 2765e9, 1200e9 / 2 / 6, 4, (16, 20, 28), 1, "v5p", 2),
    "v6e": Chip(*DEVICES["TPU v6 lite"], 1600e9, 800e9 / 2 / 4, 16, (16, 16), 1, "v6e", 1),
}
NEVER = 1 << 30  # GPUs of a machine have one port, to a switch
GPUS = {
    "a100": Chip(*DEVICES["NVIDIA A100-SXM4-80GB"], 2039e9, 600e9 / 2, NEVER, (8,), 0.5, "a100", 1),
    "h100": Chip(*DEVICES["NVIDIA H100 80GB HBM3"], 3350e9, 900e9 / 2, NEVER, (8,), 0.5, "h100", 1),
    "h200": Chip(*DEVICES["NVIDIA H200"], 4800e9, 900e9 / 2, NEVER, (8,), 0.5, "h200", 1),
}


@dataclass(frozen=True)
class Slice:
    """Chips connected as a grid.

    Args:
        name: Topology name, for example ``v5e:16x16``.
        chip: The kind of chip.
        shape: Chips along each axis of the grid.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def cloud_name(self) -> str:
        """Accelerator type of the whole slice, for example ``v5litepod-256``."""
        return f"{self.chip.cloud_name}-{self.chips * self.chip.cores_named}"

    @property
    def interconnect(self) -> float:
        """Bytes/s that a chip can receive; at the end of an axis that is not a ring it has one port."""
        ports = sum(2 if size >= self.chip.torus_axis else 1 for size in self.shape if size > 1)
        return ports * self.chip.port_bandwidth


def slice_of(name: str) -> Slice:
    """Return the slice that a topology name stands for.

    Raises:
        InputError: The chip is unknown, or what follows it is not a grid of such chips.
    """
    kind, _, grid = name.partition(":")
    shape = _sizes(grid)
    if kind not in CHIPS or not shape:
        raise InputError(
            f"--topology {name!r}: write CHIP:AxB or CHIP:AxBxC with a chip of {', '.join(CHIPS)}"
        )
    return _made(name, CHIPS[kind], shape, "--topology")


def devices_named(name: str) -> Slice:
    """Return a slice of TPU chips, as ``slice_of``, or GPUs of one machine: ``h100`` or ``h100:8``.

    Raises:
        InputError: The name is neither, or there is no such slice or machine.
    """
    kind, _, count = name.partition(":")
    shape = _sizes("1" if kind in GPUS and not count else count)
    if kind not in CHIPS | GPUS or not shape:
        raise InputError(
            f"--device {name!r}: write a TPU slice, CHIP:AxB or CHIP:AxBxC, with a chip of "
            f"{', '.join(CHIPS)}, or GPUs, KIND or KIND:COUNT, of {', '.join(GPUS)}"
        )
    return _made(name, (CHIPS | GPUS)[kind], shape, "--device")


def _made(name: str, chip: Chip, shape: tuple[int, ...], flag: str) -> Slice:
    """Return the slice, or GPUs of one machine, if there can be one of this shape; ``flag`` named it."""
    kind, largest = name.partition(":")[0], chip.largest
    fits = len(shape) == len(largest) and all(a <= b for a, b in zip(sorted(shape), largest, strict=True))
    if len(largest) == 1:
        if not fits:
            raise InputError(f"{flag} {name!r}: a machine has {largest[0]} at most; use {kind}:{largest[0]}")
    elif not fits or any(size > 2 and size % 4 for size in shape):
        grids = f"{'AxBxC'[: 2 * len(largest) - 1]}, each 1, 2 or a multiple of 4"
        most = "x".join(map(str, largest))
        raise InputError(f"{flag} {name!r}: there is no such slice; write {kind}:{grids}, {most} at most")
    return Slice(name, chip, shape)


def _sizes(grid: str) -> tuple[int, ...]:
    """Return the numbers in AxBxC; none if it is something else."""
    sizes = grid.split("x")
    return tuple(map(int, sizes)) if all(size.isdigit() and int(size) > 0 for size in sizes) else ()
