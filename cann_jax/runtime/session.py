"""What a command that trains does first: find the other processes, heed SIGTERM, make the mesh."""

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
    """Within it, all processes of the run are there, alike, and compute on one mesh.

    Args:
        config: With ``mesh`` and ``distributed``.
        batches: Sizes that the mesh must divide, by key.

    Raises:
        InputError: processes that do not come or differ, or a mesh that fits neither devices nor batches.
    """
    with distributed.joined(config.distributed), preemption.heeded():
        # First, so that what is wrong with the configuration is from here on wrong everywhere.
        distributed.check_alike(replace(config, distributed=DistributedConfig()))
        mesh = make_mesh(config.mesh)
        check_batches(batches, mesh)
        with on_mesh(mesh):
            yield
