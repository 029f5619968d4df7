"""How a run is spread over devices and processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from cann_jax.config.ranges import Must, NonNegativeInt, PositiveInt

AxisSize = Annotated[int, Must("1 or more, or -1 for what the other axes leave", lambda n: n >= 1 or n == -1)]


@dataclass(frozen=True)
class MeshConfig:
    """Devices by mesh axis; at most one axis may be -1, which takes the devices that the others leave.

    Args:
        data: Copies of the model, each on its own part of the batch.
        fsdp: Devices that share each weight's hidden axis and the batch; weights are gathered layer by layer.
        tensor: Devices that share heads, MLP width and vocabulary; a divisor of the model's KV heads.
    """

    data: AxisSize = -1
    fsdp: AxisSize = 1
    tensor: AxisSize = 1

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        if (self.data, self.fsdp, self.tensor).count(-1) > 1:
            yield "", "more than one axis is -1; give all but one of them a number"


@dataclass(frozen=True)
class DistributedConfig:
    """Processes of one run; left unset, they are read from the environment (docs/pods.md).

    Args:
        coordinator: ``host:port`` of process 0.
        processes: Number of processes.
        process: Index of this process.
        timeout_seconds: Longest wait for the coordinator, and for the other processes at a barrier.
        heartbeat_timeout_seconds: Silence after which a process counts as lost and the others end.
    """

    coordinator: str | None = None
    processes: PositiveInt | None = None
    process: NonNegativeInt | None = None
    timeout_seconds: PositiveInt = 300
    heartbeat_timeout_seconds: PositiveInt = 100

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others, with the reason."""
        values = {"coordinator": self.coordinator, "processes": self.processes, "process": self.process}
        missing = [name for name, value in values.items() if value is None]
        if missing and len(missing) < len(values):
            yield missing[0], f"is missing; give all of {', '.join(values)}, or none"
        if self.process is not None and self.processes is not None and self.process >= self.processes:
            yield (
                "process",
                f"is {self.process}; use 0 up to {self.processes - 1}, one less than distributed.processes",
            )
