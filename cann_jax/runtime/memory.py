"""Memory that runs out: one line with the setting to change, and to what."""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import jax

from cann_jax.files.errors import ResourceError, is_out_of_memory
from cann_jax.runtime import host_memory

F = TypeVar("F", bound=Callable[..., Any])


class ProgramTooLarge(MemoryError):
    """A program needs ``times`` as much memory as this machine has left."""

    def __init__(self, needed: float, left: float):
        super().__init__(f"a program needs {needed / 1e9:.3g} GB more, and {left / 1e9:.3g} GB are left")
        self.times = needed / left


class Held(NamedTuple):
    """Bytes of a compiled program on one device."""

    arguments: int
    temporaries: int
    output: int
    together: int


def held(compiled: Any) -> Held:
    """Return what a compiled program holds while it runs."""
    found = compiled.memory_analysis()
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes)
    # Donated arguments are the output's memory too, and count once.
    return Held(*parts, sum(parts) - found.alias_size_in_bytes)


def checked(function: F) -> F:
    """Return a jitted function that does not begin a program for which this machine has no room.

    On a CPU, XLA ends the process where an allocation fails, or Linux does; other devices report it. What
    ``lower`` compiles is what ``jax.jit`` then runs, so that nothing is compiled twice.

    Raises, when it is called:
        ProgramTooLarge: There is no room.
    """
    jitted: Any = function
    known: set[Any] = set()

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if jax.default_backend() == "cpu" and (shapes := _shapes((arguments, named))) not in known:
            traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, named)))
            if not traced:  # else it is part of another program
                _check_room(jitted.lower(*arguments, **named).compile(), (arguments, named))
                known.add(shapes)
        return jitted(*arguments, **named)

    found: Any = call
    found.trace, found.lower = jitted.trace, jitted.lower
    return cast(F, found)


def _check_room(compiled: Any, arguments: Any) -> None:
    jax.block_until_ready(arguments)  # what runs now gives its memory back before this program begins
    sizes, left = held(compiled), host_memory.available()
    needed = (sizes.together - sizes.arguments) * jax.local_device_count()
    if left is not None and needed > left:
        raise ProgramTooLarge(needed, max(left, 1))


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, str(x.dtype)) if hasattr(x, "shape") else x for x in leaves)


@contextlib.contextmanager
def within_memory(what: str, remedy: Callable[[float], str]) -> Iterator[None]:
    """Turn memory that runs out, of a device or of this machine, into one line that ends with the remedy.

    Args:
        what: What is done, for the message.
        remedy: Given how many times too large a program is, at least, says what makes it smaller.

    Raises:
        ResourceError: It ran out.
    """
    try:
        yield
    except MemoryError as error:
        reason, times = (f" ({error})", error.times) if isinstance(error, ProgramTooLarge) else ("", 1.0)
        raise ResourceError(f"{what}: this machine's memory is exhausted{reason}; {remedy(times)}") from None
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2][:200]
        raise ResourceError(f"{what}: a device's memory is exhausted ({reason}); {remedy(1.0)}") from None


def smaller_step(key: str, accumulation: int, size: int, rematerialise: str, times: float = 1.0) -> str:
    """Return what makes a training step smaller: more micro-batches, and what is kept of each.

    ``key`` is the training's section of the configuration, with its dot, ``size`` the batch of a step, and
    ``times`` how many times too large the step is, at least.
    """
    numbers = [n for n in range(accumulation + 1, size + 1) if size % n == 0]
    more = next((n for n in numbers if n >= times * accumulation), max(numbers, default=None))
    remedies = [] if more is None else [f"raise {key}accumulation from {accumulation} to {more}"]
    if rematerialise != "everything":
        remedies.append(f"set {key}rematerialise to everything")
    last = "give the mesh more devices (mesh.fsdp), or shorten prompts and responses"
    return ", ".join([*remedies, last])
