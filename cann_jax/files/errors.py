"""The one exception that a user is meant to read."""

import contextlib
from collections.abc import Iterator

# Exit statuses that no exception here carries, as shells count them: 128 and the signal's number.
INTERRUPTED = 130  # SIGINT
BROKEN_PIPE = 141  # SIGPIPE


class InputError(ValueError):
    """Bad input: one line that names the key or file and says how to mend it.

    Entry points print the message and exit with ``exit_status``; no traceback.
    """

    exit_status = 2


class Preempted(Exception):
    """The machine is taken away; what was done is kept, and the next start goes on."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h


class AbsentError(InputError):
    """Another process of the run did not come, or is lost; starting all of them again may mend it."""

    exit_status = 75


class InfeasibleError(InputError):
    """The margins cannot be reached on the sampled responses (paper, section 3: no finite multiplier)."""

    exit_status = 3


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Puts a configuration's key in front of an error from a floor that does not know it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
