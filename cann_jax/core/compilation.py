"""``jax.jit`` that compiles programs on small tables quickly instead of well, and functions outside it."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import is_traced
from cann_jax.files.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

# At 1,000 × 32 scores a solve takes 5 ms, 2 to 3 times as long as at XLA's defaults, and compiles in a fifth
# of their 4 s.
QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# Numbers in the table. At 1,000 × 32 the whole command takes 1.8 s less the first time, .6 s more after it.
SMALL = 1 << 17


def jit(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return ``jax.jit`` with these options, for functions whose first argument is a table.

    On a CPU the program of a ``SMALL`` one runs for milliseconds, and is compiled with little optimization.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        full: Callable[P, R] = jax.jit(function, **options)

        @cache
        def quick() -> Callable[P, R]:
            return jax.jit(function, compiler_options=_known_options(), **options)

        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            chosen = quick() if arguments and _is_small(arguments) else full
            return chosen(*arguments, **named)

        return call

    return decorate


def _is_small(arguments: tuple[Any, ...]) -> bool:
    if sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(arguments[0])) > SMALL:
        return False
    # JAX takes options for the outermost program only, of which a traced function is a part
    if is_traced(arguments, jnp.zeros(())):
        return False
    return jax.default_backend() == "cpu"


@cache
def _known_options() -> dict[str, int | bool]:
    """Return those of the options that this version of XLA has: the fusion emitters' went in jax 0.11.1."""

    def is_known(name: str) -> bool:
        try:
            jax.jit(lambda x: x, compiler_options={name: QUICK[name]})(0.0)
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if is_known(name)}


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, with an error in one line where its arguments are traced.

    It computes with numbers, and inside ``jit``, ``vmap`` and ``grad`` there are none.
    """

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        if is_traced(arguments, named):
            raise InputError(
                f"{function.__name__}: it runs on the host; call it outside jit, vmap and grad, on arrays"
            )
        return function(*arguments, **named)

    return call
