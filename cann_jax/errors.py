"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input: one line that names the key or file and says how to mend it.

    Entry points print the message and exit with ``exit_status``; no traceback.
    """

    exit_status = 2


class InfeasibleError(InputError):
    """The margins cannot be reached on the sampled responses (paper, section 3: no finite multiplier)."""

    exit_status = 3
