"""Where arrays lie on the mesh: logical axes of parameters and activations, and one strict table of rules."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from cann_jax.files.errors import InputError
from cann_jax.runtime.mesh import current_mesh

# Logical axis → the mesh axes that it is sharded over. An axis that is not here does not exist.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "replicas": ("data",),  # the batch, where the hidden axis of a weight stays sharded
    "hidden": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "intermediate": ("tensor",),
    "vocabulary": (),  # 32,001 tokens divide by nothing; the head's chunks are padded and sharded instead
    "vocabulary_part": ("tensor",),
    "layers": (),
    "rank": (),
    "norm": (),
    "any": (),
}

# Sizes of a model that the mesh must divide: logical axis (and field of DecoderConfig) → name in messages.
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
    ("head", ("norm",)),  # one row, of a reward model
)

_ROOTS = {pattern.partition("/")[0] for pattern, _ in PARAMETERS}


def axis_size(name: str) -> int:
    """Return the number of shards of a logical axis on the current mesh."""
    mesh = current_mesh()
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in RULES[name]]))


def partition(axes: Axes) -> PartitionSpec:
    """Return the PartitionSpec of an array whose logical axes are ``axes``."""
    unknown = [name for name in axes if name not in RULES]
    if unknown:
        raise ValueError(f"no rule for the logical axis {unknown[0]!r}; add it to sharding.RULES")
    used = [axis for name in axes for axis in RULES[name]]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {axes} use one mesh axis twice ({used}); change sharding.RULES")
    return PartitionSpec(*(RULES[name] or None for name in axes))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrain the sharding of an activation by its logical axes; without a mesh, return it as it is."""
    return x if current_mesh() is None else jax.lax.with_sharding_constraint(x, partition(axes))


def parameter_axes(path: str) -> Axes:
    """Return the logical axes of the parameter at ``path`` ("layers/attention/q_proj/kernel")."""
    for pattern, axes in PARAMETERS:
        if fnmatchcase(path, pattern):
            return axes
    raise ValueError(f"no sharding for the parameter {path!r}; add it to sharding.PARAMETERS")


def parameter_specs(tree: Any) -> Any:
    """Return the tree with a PartitionSpec in place of each array.

    It may hold trees of parameters beside scalars, as the state of an optimizer or of training does: a prefix
    of the path ("optimizer/mu/…") does not change the sharding.
    """

    def spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        if not leaf.shape:
            return PartitionSpec()
        name = path_name(path)
        axes = parameter_axes(name)
        if len(axes) != len(leaf.shape):
            raise ValueError(f"{name} has shape {leaf.shape} and axes {axes}; fix sharding.PARAMETERS")
        return partition(axes)

    return jax.tree_util.tree_map_with_path(spec, tree)


def parameter_sharding() -> Callable[[tuple[str, ...]], NamedSharding] | None:
    """Return a function from a parameter's path to its sharding on the current mesh; None without a mesh."""
    mesh = current_mesh()
    if mesh is None:
        return None
    return lambda path: NamedSharding(mesh, partition(parameter_axes("/".join(path))))


def path_name(path: tuple[Any, ...]) -> str:
    """Return a key path as ``layers/mlp/up_proj/kernel``, from where the parameter's own path begins."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    first = next((index for index, name in enumerate(names) if name in _ROOTS), 0)
    return "/".join(name for name in names[first:] if name not in ("", "value"))


def constrain_parameters(tree: Any) -> Any:
    """Constrain, inside a jitted function, weights, gradients or an optimizer's state to ``PARAMETERS``."""
    if current_mesh() is None:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, parameter_specs(tree))


def check_batches(batches: Mapping[str, int], mesh: Mesh | AbstractMesh) -> None:
    """Raise InputError unless the mesh divides every batch size, given by configuration key."""
    sizes = mesh.shape
    shards = int(np.prod([sizes[axis] for axis in RULES["batch"]]))
    for key, size in batches.items():
        if size % shards:
            raise InputError(
                f"{key} is {size} and does not divide over {shards} devices (mesh data {sizes['data']} × "
                f"fsdp {sizes['fsdp']}); use a multiple of {shards}, or a larger mesh.tensor"
            )


def check_model(model: Any, mesh: Mesh | AbstractMesh | None) -> None:
    """Raise InputError unless the mesh divides a model, given as ``DecoderConfig``; None is one device."""
    for name, words in SHARED_SIZES.items():
        (axis,), size = RULES[name], getattr(model, name)
        shards = 1 if mesh is None else mesh.shape[axis]
        if size % shards:
            raise InputError(
                f"mesh.{axis} is {shards} and the model's {words} {size}; "
                f"use a divisor of {size} for mesh.{axis}"
            )


def divides(model: Any, axis: str, shards: int) -> bool:
    """Return whether a mesh axis of that many ``shards`` divides a model, given as ``DecoderConfig``."""
    return not any(getattr(model, name) % shards for name in SHARED_SIZES if RULES[name] == (axis,))
