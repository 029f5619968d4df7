"""What a command leaves behind when it fails: one line on standard error and an exit status."""

import contextlib
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from cann_jax.command_line import streams
from cann_jax.files.errors import (
    BROKEN_PIPE,
    INTERRUPTED,
    InputError,
    Preempted,
    ResourceError,
    is_out_of_memory,
)

_NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_command(main: Callable[[Sequence[str]], None]) -> int:
    """Run ``main`` on the process's arguments and return its exit status.

    Bad input becomes one line on standard error; a bug keeps its traceback.
    """
    streams.prepare()
    try:
        return _status(main)
    finally:
        streams.settle()


def _status(main: Callable[[Sequence[str]], None]) -> int:
    try:
        with _preemptible():
            main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        streams.say(f"error: {_one_line(str(error))}")
        return _leave(error.exit_status)
    except Preempted as stopped:
        streams.say(f"stopped: {_one_line(str(stopped))}")
        return stopped.exit_status
    except KeyboardInterrupt:
        streams.say("interrupted; start again to continue with what is finished")
        return _leave(INTERRUPTED)
    except BrokenPipeError:
        if streams.stdout_has_reader():
            raise
        return _leave(BROKEN_PIPE)
    except Exception as error:
        if (found := _out_of_resources(error)) is None:
            _crash(error)
            raise
        streams.say(f"error: {found}; what is finished is kept")
        return _leave(ResourceError.exit_status)
    return 0


@contextlib.contextmanager
def _preemptible() -> Iterator[None]:
    """Raise ``Preempted`` on SIGTERM, from the start on: a run's imports take seconds.

    Sessions handle it in their own way (``runtime.preemption``).
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(*_: object) -> NoReturn:
    raise Preempted("SIGTERM: what is finished is kept; start again to continue")


def _out_of_resources(error: Exception) -> str | None:
    """Return in words what has run out, and the remedy; None if the error is something else."""
    if isinstance(error, OSError) and error.errno in _NO_OUTPUT:
        where = error.filename or "standard output"
        return f"cannot write {where} ({error.strerror}); free space, or send it elsewhere, and start again"
    if not is_out_of_memory(error):
        return None
    reason = _one_line(str(error))[:200] or "MemoryError"
    remedy = "use a smaller batch or table, a machine with more, or, for tables of dual, --stream"
    return f"memory is exhausted ({reason}); {remedy}"


def _one_line(text: str) -> str:
    """Return a message in one line, without what in files of others could steer the terminal."""
    from cann_jax.files.console import one_line  # loads rich, for which no start need wait

    return one_line(text)


def _leave(status: int) -> int:
    """Return ``status``; in a run of several processes, end this one without waiting for the others."""
    if "jax" not in sys.modules:  # whose import takes half a second that a mistyped flag need not wait for
        return status
    from cann_jax.runtime import distributed

    return distributed.left(status)


def _crash(error: Exception) -> None:
    """End a process among several, which would otherwise wait for the others; return in a run of one."""
    if "jax" in sys.modules:
        from cann_jax.runtime import distributed

        distributed.crashed(error)
