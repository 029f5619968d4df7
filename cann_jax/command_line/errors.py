"""What a command leaves behind when it fails: one line on standard error and an exit status."""

import os
import select
import sys
from collections.abc import Callable, Sequence

from cann_jax.files.errors import (
    BROKEN_PIPE,
    INTERRUPTED,
    InputError,
    Preempted,
    ResourceError,
    is_out_of_memory,
)


def run_command(main: Callable[[Sequence[str]], None]) -> int:
    """Run ``main`` on the process's arguments and return its exit status.

    Bad input becomes one line on standard error; a bug keeps its traceback.
    """
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        from cann_jax.files.console import one_line  # 70 ms, which a command that succeeds may not need

        # In one piece: several processes may write to one terminal at once.
        sys.stderr.write(f"error: {one_line(str(error))}\n")
        return _leave(error.exit_status)
    except Preempted as stopped:
        print("stopped:", stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("interrupted; start again to continue with what is finished", file=sys.stderr)
        return _leave(INTERRUPTED)
    except BrokenPipeError:
        if _stdout_has_reader():
            raise
        # Python flushes standard output once more as it exits, and would report that failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(BROKEN_PIPE)
    except Exception as error:
        if not is_out_of_memory(error):
            _crash(error)
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else "MemoryError"
        remedy = "use a smaller batch or table, a machine with more, or, for tables of dual, --stream"
        sys.stderr.write(f"error: memory is exhausted ({reason}); {remedy}; what is finished is kept\n")
        return _leave(ResourceError.exit_status)
    return 0


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


def _stdout_has_reader() -> bool:
    """Return whether anyone reads standard output; if so, the pipe that broke is another one."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
