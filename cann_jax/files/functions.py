"""Code of a user: functions that a configuration names, and how their faults are told."""

import contextlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError, is_out_of_memory

_OWN = str(Path(__file__).parents[1]) + os.sep  # this package


def named_function(name: str, key: str) -> Callable[..., Any]:
    """Import the function ``package.module:name``, also of a module in the working folder.

    ``key`` is that of the configuration, for messages.

    Raises:
        InputError: There is none, or its module raises.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise InputError(f"{key} is {name!r}; write package.module:name")
    if os.getcwd() not in sys.path:  # a user's own module lies beside the configuration
        sys.path.insert(0, os.getcwd())
    try:
        with users_code(f"{key} {name!r}: importing {module}", ImportError):
            imported = importlib.import_module(module)
        function: Callable[..., Any] = getattr(imported, attribute)
    except (ImportError, AttributeError) as error:
        problem = f"cannot be imported ({error}); check the spelling"
        raise InputError(f"{key} {name!r} {problem}") from None
    if not callable(function):
        raise InputError(f"{key} {name!r} is not a function; name one")
    return function


@contextlib.contextmanager
def users_code(what: str, passing: type[Exception] = InputError) -> Iterator[None]:
    """Raise what a user's code raises here as an InputError: no fault of ours, and starting again cures none.

    Errors of the class ``passing`` pass, and those that commands report in a line of their own. ``what`` is
    the subject of the message.
    """
    try:
        yield
    except (InputError, BrokenPipeError, passing):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{what} raised {text[:300]}{_place(error)}; mend it") from error


def _place(error: Exception) -> str:
    """Return the last line of the user's own files that an error went through; of others, where none is."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith((_OWN, "<"))]
    installed = tuple(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "purelib", "platlib"))
    users = [frame for frame in outside if not frame.filename.startswith(installed)]
    found = (users or outside)[-1:]
    return "".join(f" ({frame.filename}, line {frame.lineno}: {frame.line})" for frame in found)
