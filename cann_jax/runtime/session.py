"""The session of a command that trains: its processes, its handling of SIGTERM and its mesh."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cann_jax.config.mesh import DistributedConfig
from cann_jax.runtime import distributed, preemption
from cann_jax.runtime.mesh import make_mesh, on_mesh
from cann_jax.runtime.sharding import check_batches


@contextlib.contextmanager
def session(config: Any, batches: Mapping[str, int]) -> Iterator[None]:
    """Join all processes of the run, check that they agree, and compute on one mesh.

    The mesh must divide ``batches``, sizes by configuration key.

    Raises:
        InputError: Processes are missing or differ, or the mesh does not fit the devices or the batches.
    """
    with distributed.joined(config.distributed), preemption.preemptible():
        # First, so that any later error in the configuration is raised on every process.
        distributed.check_alike(replace(config, distributed=DistributedConfig()))
        mesh = make_mesh(config.mesh)
        check_batches(batches, mesh)
        with on_mesh(mesh):
            yield
