"""Functions that a user names in a configuration."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from cann_jax.files.errors import InputError


def named_function(name: str, key: str) -> Callable[..., Any]:
    """Import the function ``package.module:name``, also of a module in the working folder.

    ``key`` is that of the configuration, for messages.

    Raises:
        InputError: There is none.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise InputError(f"{key} is {name!r}; write package.module:name")
    if os.getcwd() not in sys.path:  # a user's own module lies beside the configuration
        sys.path.insert(0, os.getcwd())
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        problem = f"cannot be imported ({error}); check the spelling"
        raise InputError(f"{key} {name!r} {problem}") from None
    if not callable(function):
        raise InputError(f"{key} {name!r} is not a function; name one")
    return function
