"""Peak compute and memory of known devices.

Sources: the specification tables of cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, and NVIDIA's data
sheets of A100 (SXM), H100 (SXM) and H200, without sparsity (read November 2026).
"""

from typing import NamedTuple

import jax

from cann_jax.runtime import host_memory


class Device(NamedTuple):
    """Bfloat16 operations per second, and bytes of memory."""

    flops: float
    memory: float


# By ``jax.Device.device_kind``; a TPU v5 is a v5p.
DEVICES = {
    "TPU v4": Device(275e12, 32e9),
    "TPU v5 lite": Device(197e12, 16e9),
    "TPU v5": Device(459e12, 95e9),
    "TPU v6 lite": Device(918e12, 32e9),
    "NVIDIA A100-SXM4-40GB": Device(312e12, 40e9),
    "NVIDIA A100-SXM4-80GB": Device(312e12, 80e9),
    "NVIDIA H100 80GB HBM3": Device(989e12, 80e9),
    "NVIDIA H200": Device(989e12, 141e9),
}


def memory_of(device: jax.Device) -> float | None:
    """Return the bytes of a device's memory, of a CPU its share of this machine's; None if it is not known.

    The table comes first: all processes must find the same, and it also knows devices that are compiled for
    and not there.
    """
    if device.device_kind in DEVICES:
        return DEVICES[device.device_kind].memory
    if device.platform == "cpu":
        return host_memory.total() / jax.local_device_count()
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else float(limit)
