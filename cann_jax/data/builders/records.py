"""Convert rows of any known layout to canonical records."""

import re
from collections.abc import Mapping
from typing import Any

from cann_jax.files.errors import InputError

ABSENT = -1
USER, ASSISTANT = "user", "assistant"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": USER, "Assistant": ASSISTANT}
_LAYOUTS = "prompt/response_0/response_1, prompt/chosen/rejected, or chosen/rejected dialogues"

Turns = list[dict[str, str]]


class Unusable(ValueError):
    """A pair that occurs in real data and cannot be used; the message says why."""


def record(where: str, row: Mapping[str, Any], chosen_is: str | None) -> dict[str, Any]:
    """Return the canonical record of a row.

    Args:
        where: File and row, the record's id.
        row: Columns of PKU-SafeRLHF, ``prompt/chosen/rejected``, or hh-rlhf's two dialogues.
        chosen_is: The dimension that ``chosen`` is preferred on: ``better`` or ``safer``.

    Returns:
        ``id``; ``turns``, from the first user turn to the last; ``response_0``, ``response_1``;
        ``better``, ``safer``: 0 or 1, the preferred response, or -1 if not labelled;
        ``safe_0``, ``safe_1``: 1, 0, or -1; ``harms_0``, ``harms_1``: names of harm categories;
        ``harms_known``: whether the row has them.

    Raises:
        InputError: The columns are of no known layout, or a label is neither 0 nor 1.
        Unusable: A dialogue does not end with the assistant, or the two answer different dialogues.
    """
    if {"response_0", "response_1"} <= row.keys():
        responses = {f"response_{i}": _text(where, row, f"response_{i}") for i in (0, 1)}
        return _record(where, _turns(where, row), responses, row)
    if not {"chosen", "rejected"} <= row.keys():
        columns = ", ".join(map(str, row)) or "none"
        raise InputError(f"{where}: the columns are {columns}; they must be {_LAYOUTS}")
    if chosen_is is None:
        raise InputError(
            f"{where}: the data do not say what 'chosen' is preferred for; "
            "set preferences.chosen_is to better or safer"
        )
    turns, chosen, rejected = _chosen_and_rejected(where, row)
    labels = {f"{chosen_is}_response_id": 0, **row}
    return _record(where, turns, {"response_0": chosen, "response_1": rejected}, labels)


def _record(where: str, turns: Turns, responses: dict[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    harms = [row.get(f"response_{i}_harm_category") for i in (0, 1)]
    return {
        "id": where,
        "turns": turns,
        **responses,
        **{name: _binary(where, row, f"{name}_response_id") for name in ("better", "safer")},
        **{f"safe_{i}": _binary(where, row, f"is_response_{i}_safe") for i in (0, 1)},
        **{f"harms_{i}": _harms(where, harms[i]) for i in (0, 1)},
        "harms_known": int(None not in harms),
    }


def _binary(where: str, row: Mapping[str, Any], column: str) -> int:
    value = row.get(column)
    if value is None:
        return ABSENT
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise InputError(f"{where}: {column} is {value!r}; it must be 0, 1 or null")
    return int(value)


def _harms(where: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where}: harm categories are {value!r}; they must be a mapping of name to true/false"
        )
    return sorted(str(name) for name, present in value.items() if present)


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} is {value!r}; it must be text")
    return value


def _turns(where: str, row: Mapping[str, Any]) -> Turns:
    """Return the turns of the prompt: a text, or turns with ``role`` and ``content``, the last the user's."""
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": USER, "text": prompt}]
    if isinstance(prompt, list) and prompt:
        turns = [_message(where, message) for message in prompt]
        if turns[-1]["role"] == USER:
            return turns
    raise InputError(f"{where}: prompt is {prompt!r}; it must be text, or turns that end with the user's")


def _message(where: str, message: Any) -> dict[str, str]:
    if isinstance(message, Mapping) and isinstance(message.get("content"), str) and "role" in message:
        return {"role": str(message["role"]), "text": message["content"]}
    raise InputError(f"{where}: the turn {message!r} must have the keys role and content")


def _chosen_and_rejected(where: str, row: Mapping[str, Any]) -> tuple[Turns, str, str]:
    if "prompt" in row:
        return _turns(where, row), _last_text(where, row, "chosen"), _last_text(where, row, "rejected")
    (prompt, chosen), (other, rejected) = (_split(where, row, name) for name in ("chosen", "rejected"))
    if prompt != other:
        raise Unusable("pairs that answer two different dialogues left out")
    return prompt, chosen, rejected


def _last_text(where: str, row: Mapping[str, Any], column: str) -> str:
    """Return a response that is given as a text, or as a list of turns that ends with it."""
    value = row[column]
    if isinstance(value, list) and value:
        return _message(where, value[-1])["text"]
    return _text(where, row, column)


def _split(where: str, row: Mapping[str, Any], column: str) -> tuple[Turns, str]:
    r"""Split a dialogue at its last assistant turn: "\n\nHuman: a\n\nAssistant: b" into [user a] and "b"."""
    if isinstance(row[column], list):
        turns = [_message(where, turn) for turn in row[column]]
    else:
        turns = _parsed(_text(where, row, column))
    if len(turns) < 2 or turns[-1]["role"] != ASSISTANT or turns[-2]["role"] != USER:
        raise Unusable("dialogues without a last assistant turn left out")
    return turns[:-1], turns[-1]["text"]


def _parsed(dialogue: str) -> Turns:
    opening, *pieces = _TURN.split(dialogue)
    if opening.strip():
        return []
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": _ROLES[speaker], "text": text.strip()} for speaker, text in pairs]
