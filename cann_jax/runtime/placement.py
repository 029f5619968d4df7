"""Move arrays onto the current mesh and back, and describe where they would lie."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cann_jax.runtime.mesh import current_mesh
from cann_jax.runtime.sharding import parameter_specs, partition


def place(tree: Any, specs: Any) -> Any:
    """Put arrays that are whole on every process on the current mesh; each process puts its own shards.

    ``specs`` is a tree of PartitionSpecs, or one for all arrays.
    """
    mesh = current_mesh()
    if mesh is None:
        return tree
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)
    return jax.tree.map(lambda x, spec: _put(x, NamedSharding(mesh, spec)), tree, specs)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1 or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        placed: jax.Array = jax.device_put(x, sharding)
        return placed
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def place_batch(tree: Any) -> Any:
    """Shard arrays over the current mesh along their first axis, the batch."""
    return place(tree, partition(("batch",)))


def place_parameters(tree: Any) -> Any:
    """Return parameters as the current mesh lays them out; it has the devices, in order, that they lie on."""
    mesh = current_mesh()
    if mesh is None:
        return tree
    return jax.device_put(tree, jax.tree.map(lambda spec: NamedSharding(mesh, spec), parameter_specs(tree)))


def own_rows(size: int) -> np.ndarray:
    """Return the rows of a batch of ``size`` that devices of this process hold, so that it must make them."""
    mesh = current_mesh()
    if mesh is None or jax.process_count() == 1:
        return np.arange(size)
    held = NamedSharding(mesh, partition(("batch",))).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[index[0]] for index in held.values() if index]))


def place_rows(tree: Any, size: int) -> Any:
    """Shard a batch of ``size`` rows, of which each process has its ``own_rows``, over the current mesh."""
    tree = jax.tree.map(lambda x: x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False), tree)
    mesh = current_mesh()
    if mesh is None or jax.process_count() == 1:
        return place_batch(tree)
    rows, sharding = own_rows(size), NamedSharding(mesh, partition(("batch",)))

    def put(x: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # every device holds rows of a batch
            return x[np.searchsorted(rows, np.arange(size)[index[0]])]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, shard)

    return jax.tree.map(put, tree)


def fetch(x: jax.Array) -> np.ndarray:
    """Return the whole array on every host; processes that hold shards of it exchange them."""
    if jax.process_count() > 1 and not x.is_fully_replicated:
        assert isinstance(x.sharding, NamedSharding)
        x = jax.jit(lambda x: x, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)
    return np.asarray(x)


def shapes_of_parameters(tree: Any) -> Any:
    """Return the shapes in a tree with the sharding of ``PARAMETERS``, to compile without arrays."""
    mesh = current_mesh()
    return tree if mesh is None else _shapes(tree, parameter_specs(tree), mesh)


def shapes_of_batch(tree: Any) -> Any:
    """Return the shapes in a tree, sharded along their first axis, the batch."""
    mesh, spec = current_mesh(), partition(("batch",))
    return tree if mesh is None else _shapes(tree, jax.tree.map(lambda _: spec, tree), mesh)


def _shapes(tree: Any, specs: Any, mesh: Mesh) -> Any:
    def placed(x: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree, specs)
