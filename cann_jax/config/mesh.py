"""How a run is spread over devices and processes; part of the schema in ``cann_jax.config``."""

from dataclasses import dataclass

from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class MeshConfig:
    """Devices by axis; at most one axis may be -1, "what the others leave".

    Args:
        data: Copies of the model, each on its own part of the batch.
        fsdp: Devices that share each weight's hidden axis and the batch; weights are gathered layer by layer.
        tensor: Devices that share heads, MLP width and vocabulary; a divisor of the model's KV heads.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class DistributedConfig:
    """Processes of one run; left alone, they are read from the environment (docs/pods.md).

    Args:
        coordinator: ``host:port`` of process 0.
        processes: How many there are.
        process: Which one this is.
        timeout_seconds: Longest wait for the coordinator, and for the others at a barrier.
        heartbeat_timeout_seconds: Silence after which a process counts as lost.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    timeout_seconds: int = 300
    heartbeat_timeout_seconds: int = 100


def check_mesh(mesh: MeshConfig, distributed: DistributedConfig) -> None:
    """Raise InputError, with key and mend, for what is wrong whatever the devices."""
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise InputError(f"mesh.{name} is {size}; use 1 or more, or -1 for what the other axes leave")
    if list(sizes.values()).count(-1) > 1:
        raise InputError("mesh: more than one axis is -1; give all but one of them a number")
    for name in ("timeout_seconds", "heartbeat_timeout_seconds"):
        if getattr(distributed, name) < 1:
            raise InputError(f"distributed.{name} is {getattr(distributed, name)}; use 1 or more")
    _check_flags(distributed)


def _check_flags(distributed: DistributedConfig) -> None:
    names = ("coordinator", "processes", "process")
    missing = [name for name in names if getattr(distributed, name) is None]
    if missing and len(missing) < len(names):
        raise InputError(f"distributed.{missing[0]} is missing; give all of {', '.join(names)}, or none")
    if not missing and not 0 <= distributed.process < distributed.processes:
        raise InputError(
            f"distributed.process is {distributed.process}; use 0 up to {distributed.processes - 1}, "
            "one less than distributed.processes"
        )
