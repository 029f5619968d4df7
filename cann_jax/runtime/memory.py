"""Memory that runs out: one line with the setting to change, and to what."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from cann_jax.files.errors import ResourceError


@contextlib.contextmanager
def within_memory(what: str, remedy: Callable[[], str]) -> Iterator[None]:
    """Turn memory that runs out, of a device or of this machine, into one line that ends with the remedy.

    Raises:
        ResourceError: It ran out.
    """
    try:
        yield
    except MemoryError:
        raise ResourceError(f"{what}: this machine's memory is exhausted; {remedy()}") from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2][:200]
        raise ResourceError(f"{what}: a device's memory is exhausted ({reason}); {remedy()}") from None


def smaller_step(key: str, accumulation: int, size: int, rematerialise: str) -> str:
    """Return what makes a training step smaller: the next number of micro-batches, and what is kept of each.

    ``key`` is the training's section of the configuration, with its dot, and ``size`` the batch of a step.
    """
    more = next((n for n in range(accumulation + 1, size + 1) if size % n == 0), None)
    remedies = [] if more is None else [f"raise {key}accumulation from {accumulation} to {more}"]
    if rematerialise != "everything":
        remedies.append(f"set {key}rematerialise to everything")
    last = "give the mesh more devices (mesh.fsdp), or shorten prompts and responses"
    return ", ".join([*remedies, last])
