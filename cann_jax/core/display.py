"""How the core's values go to and come from people: found by name, so that arrays in and out need none of it.

Tables (pandas, Arrow) and notebooks' HTML are made in ``analysis``, above the core, which imports nothing of
it: what is asked for is looked up when it is asked for.
"""

import pkgutil
from collections.abc import Callable
from typing import Any


def display(name: str) -> Callable[..., Any]:
    """Return a function of ``analysis`` by ``module:name``."""
    found: Callable[..., Any] = pkgutil.resolve_name(f"cann_jax.analysis.{name}")
    return found
