"""Errors that are reported to the user in one line, each with its exit status."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

# Exit statuses that no exception here carries, as shells count them: 128 and the signal's number.
INTERRUPTED = 130  # SIGINT
BROKEN_PIPE = 141  # SIGPIPE


class InputError(ValueError):
    """Bad input: one line that names the key or file and says how to fix it.

    Entry points print the message and exit with ``exit_status``, without a traceback.
    """

    exit_status = 2


class Preempted(SystemExit):
    """The run was preempted; what is finished is kept, and the next start continues from there.

    No Exception, as KeyboardInterrupt is none: handlers of whatever a library raises must let it pass. And a
    SystemExit, for event loops log any other that a callback raises, and go on: Orbax's then waited for ever.
    """

    exit_status = 75  # EX_TEMPFAIL of sysexits.h

    def __init__(self, message: str):
        super().__init__(message)
        self.code = self.exit_status  # of a program of one's own that lets it through


class AbsentError(InputError):
    """Another process of the run is missing or lost; starting all of them again may help."""

    exit_status = 75


class ResourceError(InputError):
    """Disk or memory is exhausted, or a file cannot be written; what is finished is kept."""

    exit_status = 3


class InfeasibleError(InputError):
    """The margins cannot be reached on the sampled responses (paper, section 3: no finite multiplier)."""

    exit_status = 4


class NotHeldError(InputError):
    """The certificate of a constraint does not hold, where the user required it to."""

    exit_status = 4


class NotConvergedError(InputError):
    """Multipliers were not found to tolerance, though nothing proves the margins out of reach."""

    exit_status = 5


def shown(value: object) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > 80:
            break
    return cut(text)


def cut(text: str) -> str:
    """Return a text, cut where it is long."""
    return text if len(text) <= 80 else f"{text[:78]} …"


def _pieces(value: object) -> Iterator[str]:
    """Yield ``repr`` of a value in pieces: that of nested lists may have 2⁴⁰, and a message takes few."""
    if type(value) is dict:
        yield "{"
        for index, (name, each) in enumerate(value.items()):
            yield ", " if index else ""
            yield from _pieces(name)
            yield ": "
            yield from _pieces(each)
        yield "}"
    elif type(value) is list or type(value) is tuple:
        begin, end = "[]" if type(value) is list else "()"
        yield begin
        for index, each in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(each)
        yield f",{end}" if end == ")" and len(value) == 1 else end
    elif type(value) is str or type(value) is bytes:
        yield repr(value[:1000])
    elif type(value) is int and value.bit_length() > 10_000:
        yield hex(value)  # Python writes no decimal number of over 4300 digits
    else:
        yield repr(value)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of ``words``, or one that begins so; None where a guess would be arbitrary."""
    known, asked = {each.casefold(): each for each in words}, word.casefold()
    begun = [each for each in known if asked and each.startswith(asked)]
    close = difflib.get_close_matches(asked, known, n=1) or begun
    return known[close[0]] if close else None


def hint(word: str, words: Iterable[str], kind: str) -> str:
    """Return the end of a message about a word that is none of ``words``: the nearest, else all of them."""
    words = list(words)
    near = nearest(word, words)
    return f"did you mean {near}?" if near is not None else f"the {kind} are {listed(words)}"


def listed(words: Sequence[str]) -> str:
    """Return the words, of which a line holds twenty."""
    more = f", … ({len(words)} in all)" if len(words) > 20 else ""
    return ", ".join(words[:20]) + more


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Prefix an InputError with a configuration key that the code below does not know."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


# What JAX, and the loader of shared libraries, say of memory that runs out.
_OF_MEMORY = ("RESOURCE_EXHAUSTED", "failed to map segment", "Cannot allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says so: Python's, Arrow's, or others', known by their text: JAX may be absent.

    XLA says RESOURCE_EXHAUSTED of a full disk, too.
    """
    text = str(error)
    said = isinstance(error, RuntimeError | OSError | ImportError) and any(map(text.__contains__, _OF_MEMORY))
    return isinstance(error, MemoryError) or (said and "No space left" not in text)
