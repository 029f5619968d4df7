"""Lines of JSON, as people's files hold them."""

import json
from codecs import BOM_UTF8  # with which Windows begins a file
from typing import Any

from cann_jax.files.errors import InputError, shown


class BadRow(InputError):
    """A row that cannot be used: the reason, in words that other such rows share, and what this one holds."""

    def __init__(self, reason: str, found: object = None) -> None:
        holds = "" if found is None else f" ({shown(found)})"
        super().__init__(f"{reason}{holds}")
        self.reason = reason


def json_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line.

    Raises:
        BadRow: It is not UTF-8, not JSON, or another value than an object, or gives a key twice.
    """
    try:
        row = json.loads(line.removeprefix(BOM_UTF8).decode(), object_pairs_hook=_each_key_once)
    except BadRow:
        raise
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"byte {error.start} of the line") from None
    except RecursionError:
        raise BadRow("invalid JSON", "nested too deeply") from None
    except ValueError as error:
        raise BadRow("invalid JSON", str(error)) from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these keys; json.loads would silently keep the last of two values of a key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRow("a key is given twice", next(key for key in keys if keys.count(key) > 1))
    return found


def is_utf8(text: str) -> bool:
    r"""Return whether UTF-8 can hold a text; half of a surrogate pair, JSON's "\ud83d", it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
