"""Where arrays lie: a mesh of devices, names of logical axes, and one strict table between the two.

The axes of the mesh have JAX's type Auto, although ``jax.make_mesh`` makes Explicit ones by default: with
Explicit axes every gather, reshape and scan of the decoder and of the dual would have to state the sharding
of its result, and the pure functions could not run unchanged on one device. Here XLA propagates what the
tables below say of parameters and of a few activations (Xu et al. 2021, GSPMD).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cann_jax.config.mesh import MeshConfig
from cann_jax.files.errors import InputError

AXES = ("data", "fsdp", "tensor")

# Logical axis → the mesh axes that share it. An axis that is not here does not exist.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "replicas": ("data",),  # the batch, where a weight's hidden axis is to stay shared
    "hidden": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "intermediate": ("tensor",),
    "vocabulary": (),  # 32,001 tokens divide by nothing; the head's chunks are filled up and shared instead
    "vocabulary_part": ("tensor",),
    "layers": (),
    "rank": (),
    "norm": (),
    "any": (),
}

# What of a model must divide, by the name of the axis and of the configuration's field.
SHARED_SIZES = {"hidden": "width", "heads": "heads", "kv_heads": "KV heads", "intermediate": "MLP width"}

Axes = tuple[str, ...]


# Linear layer → logical axes of its kernel, (in, out).
LINEARS: dict[str, Axes] = {
    "q_proj": ("hidden", "heads"),
    "k_proj": ("hidden", "kv_heads"),
    "v_proj": ("hidden", "kv_heads"),
    "o_proj": ("heads", "hidden"),
    "gate_proj": ("hidden", "intermediate"),
    "up_proj": ("hidden", "intermediate"),
    "down_proj": ("intermediate", "hidden"),
}


def _linear(name: str, inside: str, outside: str) -> tuple[tuple[str, Axes], ...]:
    return (
        (f"layers/*/{name}/kernel", ("layers", inside, outside)),
        (f"layers/*/{name}/bias", ("layers", outside)),
        (f"layers/*/{name}/lora/a", ("layers", inside, "rank")),
        (f"layers/*/{name}/lora/b", ("layers", "rank", outside)),
    )


# Path of a parameter → its logical axes; the first match wins, and every parameter must have one.
PARAMETERS: tuple[tuple[str, Axes], ...] = (
    ("embedding", ("vocabulary", "hidden")),
    ("lm_head", ("vocabulary", "hidden")),
    *(entry for name, axes in LINEARS.items() for entry in _linear(name, *axes)),
    ("layers/*norm/scale", ("layers", "norm")),
    ("final_norm/scale", ("norm",)),
    ("head", ("norm",)),  # of a reward model, one row
)

_ROOTS = {pattern.partition("/")[0] for pattern, _ in PARAMETERS}

_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over all devices, or over those given.

    Raises:
        InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of (data, fsdp, tensor), -1 resolved."""
    sizes = [getattr(config, name) for name in AXES]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    fits = devices % fixed == 0 if -1 in sizes else devices == fixed
    if not fits:
        asked = " × ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise InputError(
            f"mesh: {asked} does not fit {devices} {'device' if devices == 1 else 'devices'}; "
            f"use sizes whose product is {devices}, or -1 for one of them and a divisor for the rest"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[Mesh]:
    """Within it, ``constrain``, ``place`` and ``platform`` speak of this mesh."""
    token = _current.set(mesh)
    try:
        with jax.set_mesh(mesh):
            yield mesh
    finally:
        _current.reset(token)


def alone() -> contextlib.AbstractContextManager[Mesh]:
    """Within it, one device of this process computes; the others, and other processes, are not waited for."""
    return on_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1]))


def current_mesh() -> Mesh | None:
    """The mesh in use; None on a single device, where nothing needs saying."""
    mesh = _current.get()
    return None if mesh is None or mesh.size == 1 else mesh


def platform() -> str:
    """What programs are compiled for, ``cpu``, ``gpu`` or ``tpu``; compile_check does so from a CPU."""
    mesh = _current.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def axis_size(name: str) -> int:
    """Parts in which the mesh takes a logical axis."""
    mesh = current_mesh()
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in RULES[name]]))


def partition(axes: Axes) -> PartitionSpec:
    """Mesh axes of an array whose logical axes are ``axes``.

    Raises:
        ValueError: a name that the table does not know, or two names that ask for the same mesh axis.
    """
    unknown = [name for name in axes if name not in RULES]
    if unknown:
        raise ValueError(f"no rule for the logical axis {unknown[0]!r}; add it to sharding.RULES")
    used = [axis for name in axes for axis in RULES[name]]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {axes} ask twice for one mesh axis ({used}); change sharding.RULES")
    return PartitionSpec(*(RULES[name] or None for name in axes))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """State the logical axes of an activation; nothing without a mesh."""
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, partition(axes))


def parameter_axes(path: str) -> Axes:
    """Logical axes of the parameter at ``path`` ("layers/attention/q_proj/kernel").

    Raises:
        ValueError: the table does not cover it.
    """
    for pattern, axes in PARAMETERS:
        if fnmatchcase(path, pattern):
            return axes
    raise ValueError(f"no sharding for the parameter {path!r}; add it to sharding.PARAMETERS")


def parameter_specs(tree: Any) -> Any:
    """The tree with a PartitionSpec in place of each array.

    Args:
        tree: Weights, their gradient, or what holds such trees beside scalars: the state of an optimizer, of
            training. What leads to a parameter ("optimizer/mu/…") does not change where it lies.
    """

    def spec(path, leaf) -> PartitionSpec:
        if not leaf.shape:
            return PartitionSpec()
        name = path_name(path)
        axes = parameter_axes(name)
        if len(axes) != len(leaf.shape):
            raise ValueError(f"{name} has shape {leaf.shape} and axes {axes}; mend sharding.PARAMETERS")
        return partition(axes)

    return jax.tree_util.tree_map_with_path(spec, tree)


def parameter_sharding() -> Callable[[tuple[str, ...]], NamedSharding] | None:
    """Where each array of a decoder goes on the mesh in use, by its path in the state; None without one."""
    mesh = current_mesh()
    return mesh and (lambda path: NamedSharding(mesh, partition(parameter_axes("/".join(path)))))


def path_name(path: tuple) -> str:
    """A key path as ``layers/mlp/up_proj/kernel``, from the first name that begins a parameter's path."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    first = next((index for index, name in enumerate(names) if name in _ROOTS), 0)
    return "/".join(name for name in names[first:] if name not in ("", "value"))


def place(tree: Any, specs: Any) -> Any:
    """Arrays on the mesh by a tree of PartitionSpecs; every process puts its own parts there.

    Args:
        tree: Arrays, whole on every process.
        specs: The same tree of PartitionSpecs, or one for all.
    """
    mesh = current_mesh()
    if mesh is None:
        return tree
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)
    return jax.tree.map(lambda x, spec: _put(x, NamedSharding(mesh, spec)), tree, specs)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1 or jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def place_batch(tree: Any) -> Any:
    """Arrays whose first axis is the batch, shared out over the mesh."""
    return place(tree, partition(("batch",)))


def own_rows(size: int) -> np.ndarray:
    """Which rows of a batch of ``size`` lie on devices of this process, and so must be made here."""
    mesh = current_mesh()
    if mesh is None or jax.process_count() == 1:
        return np.arange(size)
    held = NamedSharding(mesh, partition(("batch",))).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[rows] for (rows,) in held.values()]))


def place_rows(tree: Any, size: int) -> Any:
    """A batch of ``size`` shared out over the mesh, of which each process made its ``own_rows``.

    Args:
        tree: NumPy arrays of these rows.
        size: Rows over all processes.
    """
    tree = jax.tree.map(lambda x: x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False), tree)
    if current_mesh() is None or jax.process_count() == 1:
        return place_batch(tree)
    rows, sharding = own_rows(size), NamedSharding(current_mesh(), partition(("batch",)))

    def put(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            return x[np.searchsorted(rows, np.arange(size)[index[0]])]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return jax.tree.map(put, tree)


def fetch(x: jax.Array) -> np.ndarray:
    """The whole array on every host; where several processes hold parts of it, they exchange them."""
    if jax.process_count() > 1 and not x.is_fully_replicated:
        x = jax.jit(lambda x: x, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)
    return np.asarray(x)


def shapes_of_parameters(tree: Any) -> Any:
    """Shapes in the tree with the place that ``PARAMETERS`` gives them; for compiling without arrays."""
    return tree if current_mesh() is None else _shapes(tree, parameter_specs(tree))


def shapes_of_batch(tree: Any) -> Any:
    """The same for arrays whose first axis is the batch."""
    return _shapes(tree, jax.tree.map(lambda _: partition(("batch",)), tree))


def _shapes(tree: Any, specs: Any) -> Any:
    mesh = current_mesh()
    if mesh is None:
        return tree

    def placed(x, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree, specs)


def constrain_parameters(tree: Any) -> Any:
    """State, inside a jitted function, that weights, gradients and optimizer lie as ``PARAMETERS`` says."""
    if current_mesh() is None:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, parameter_specs(tree))


def check_batches(batches: Mapping[str, int], mesh: Mesh | Mapping[str, int]) -> None:
    """Raise InputError, with the key, where the mesh's sizes do not divide one of these."""
    sizes = mesh.shape if isinstance(mesh, Mesh) else mesh
    shards = int(np.prod([sizes[axis] for axis in RULES["batch"]]))
    for key, size in batches.items():
        if size % shards:
            raise InputError(
                f"{key} is {size} and does not divide over {shards} devices (mesh data {sizes['data']} × "
                f"fsdp {sizes['fsdp']}); use a multiple of {shards}, or a larger mesh.tensor"
            )


def check_model(model: Any, mesh: Mesh | Mapping[str, int] | None) -> None:
    """Raise InputError where the mesh does not divide the model.

    Args:
        model: Its configuration.
        mesh: The mesh, or its sizes by axis; None is one device.
    """
    if mesh is None:
        return
    shape = mesh.shape if isinstance(mesh, Mesh) else mesh
    for name, words in SHARED_SIZES.items():
        (axis,), size = RULES[name], getattr(model, name)
        if size % shape[axis]:
            raise InputError(
                f"mesh.{axis} is {shape[axis]} and the model's {words} {size}; "
                f"use a divisor of {size} for mesh.{axis}"
            )
