"""Lines of JSON, as people's files hold them."""

import json
from typing import Any

from cann_jax.files.errors import InputError

_BOM = b"\xef\xbb\xbf"  # with which Windows begins a UTF-8 file


def json_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line.

    Raises:
        InputError: It is not UTF-8, not JSON, or another value than an object.
    """
    try:
        row = json.loads(line.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start} of the line)") from None
    except RecursionError:
        raise InputError("invalid JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"invalid JSON ({error})") from None
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    return row


def is_utf8(text: str) -> bool:
    r"""Return whether UTF-8 can hold a text; half of a surrogate pair, JSON's "\ud83d", it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
