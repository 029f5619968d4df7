"""The mesh of devices that a run computes on.

Its axes have JAX's type Auto, although ``jax.make_mesh`` makes Explicit ones by default: with Explicit axes
every gather, reshape and scan of the decoder and of the dual would have to state the sharding of its result,
and the pure functions could not run unchanged on one device. With Auto axes XLA propagates what
``runtime.sharding`` says of parameters and of a few activations (Xu et al. 2021, GSPMD).
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from cann_jax.config.mesh import MeshConfig
from cann_jax.files.errors import InputError

AXES = ("data", "fsdp", "tensor")

_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh (data, fsdp, tensor) over the given devices, or over all of them.

    Raises:
        InputError: The sizes of the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    # Axes may be split: data 16 × fsdp 4 on 8 × 8 chips, which jax.make_mesh refuses.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Return the sizes of (data, fsdp, tensor), with -1 resolved."""
    sizes = [getattr(config, name) for name in AXES]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    fits = devices % fixed == 0 if -1 in sizes else devices == fixed
    if not fits:
        given = " × ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise InputError(
            f"mesh: {given} does not fit {devices} {'device' if devices == 1 else 'devices'}; "
            f"use sizes whose product is {devices}, or -1 for one of them and a divisor for the rest"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Make ``mesh`` the current mesh, which ``constrain``, ``place`` and ``platform`` refer to."""
    token = _current.set(mesh)
    try:
        with jax.set_mesh(mesh):
            yield mesh
    finally:
        _current.reset(token)


def alone() -> contextlib.AbstractContextManager[Mesh]:
    """Compute on one device of this process, without waiting for other devices and processes."""
    return on_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1]))


def current_mesh() -> Mesh | None:
    """Return the current mesh, or None on a single device, where no sharding needs to be stated."""
    mesh = _current.get()
    return None if mesh is None or mesh.size == 1 else mesh


def platform() -> str:
    """Return the platform that programs are compiled for: ``cpu``, ``gpu`` or ``tpu``.

    It is that of the mesh's devices, not of the host: compile_check compiles for a TPU on a CPU.
    """
    mesh = _current.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
