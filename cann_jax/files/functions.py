"""Code of a user: functions that a configuration names, and how their faults are told."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cann_jax.files.errors import InputError, is_out_of_memory
from cann_jax.files.hashes import fingerprint_file

_OWN = str(Path(__file__).parents[1]) + os.sep  # this package
_hashes: dict[str, str] = {}  # SHA-256 of modules' files, by their paths, from before each was imported


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
            _note_source(module)
            imported = importlib.import_module(module)
        function: Callable[..., Any] = getattr(imported, attribute)
    except (ImportError, AttributeError) as error:
        problem = f"cannot be imported ({error}); check the spelling"
        raise InputError(f"{key} {name!r} {problem}") from None
    if not callable(function):
        raise InputError(f"{key} {name!r} is not a function; name one")
    return function


def _note_source(module: str) -> None:
    """Hash the file of a module that is about to be imported."""
    if module in sys.modules:
        return
    with contextlib.suppress(ImportError):  # which the import tells better
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.has_location and spec.origin is not None:
            _hashes[os.path.realpath(spec.origin)] = fingerprint_file(spec.origin)


def source_fingerprint(function: Callable[..., Any]) -> str | None:
    """Return the SHA-256 of the file that defines a function; None of one that is compiled, or an instance.

    Of the module that ``named_function`` imported it is that of before: the file may be edited while a run is
    under way, for hours, and this process goes on by the code that it has.
    """
    try:
        path = inspect.getsourcefile(inspect.unwrap(function)) or ""
    except TypeError:
        return None
    return _hashes.get(os.path.realpath(path)) or fingerprint_file(path)


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
