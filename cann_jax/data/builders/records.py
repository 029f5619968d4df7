"""Convert rows of any known layout to canonical records."""

import re
from collections.abc import Mapping
from typing import Any

from cann_jax.files.errors import InputError
from cann_jax.files.json_lines import BadRow, is_utf8

ABSENT = -1
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = {"Human": USER, "Assistant": ASSISTANT}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_LAYOUTS = "prompt/response_0/response_1, prompt/chosen/rejected, or chosen/rejected dialogues"
SAFETY_COLUMNS = (  # in words: the labels of chosen and rejected are those of responses 0 and 1
    "is_response_0_safe (of response_0 or chosen) and is_response_1_safe (of response_1 or rejected)"
)
_NUMBERED, _CHOSEN = {"response_0", "response_1"}, {"chosen", "rejected"}
_LABELS = {"better_response_id", "safer_response_id"} | {
    name.format(i) for name in ("is_response_{}_safe", "response_{}_harm_category") for i in (0, 1)
}

Turns = list[dict[str, str]]


def columns_read(row: Mapping[str, Any]) -> set[str]:
    """Return the columns that ``record`` reads of a row, which are those of one layout."""
    return _LABELS | {"prompt"} | (_NUMBERED if row.keys() >= _NUMBERED else _CHOSEN)


def record(where: str, row: Mapping[str, Any], chosen_is: str | None) -> dict[str, Any]:
    """Return the canonical record of a row.

    Args:
        where: File and row, the record's id.
        row: Columns of PKU-SafeRLHF, ``prompt/chosen/rejected``, or two whole dialogues.
        chosen_is: The dimension that ``chosen`` is preferred on: ``better`` or ``safer``.

    Returns:
        ``id``; ``turns``, from the first turn to the user's last; ``response_0``, ``response_1``;
        ``better``, ``safer``: 0 or 1, the preferred response, or -1 if not labelled;
        ``safe_0``, ``safe_1``: 1, 0, or -1; ``harms_0``, ``harms_1``: names of harm categories;
        ``harms_known``: whether the row has them.

    Raises:
        BadRow: The row is of no known layout, a label is neither 0 nor 1, or the two responses do not answer
            the same conversation.
        InputError: ``chosen_is`` is needed, and not given.
    """
    if row.keys() >= _NUMBERED:
        responses = [_text(row[name], name) for name in ("response_0", "response_1")]
        return _record(where, _prompt(row), responses, row)
    if not row.keys() >= _CHOSEN:
        raise BadRow(f"the columns must be {_LAYOUTS}", _columns(row))
    if chosen_is is None:
        raise InputError(
            f"{where}: the data do not say what 'chosen' is preferred for; "
            "set preferences.chosen_is to better or safer"
        )
    label = f"{chosen_is}_response_id"
    if row.get(label) not in (None, 0):
        raise BadRow(f"{label} must be 0 or absent, for 'chosen' comes first", row[label])
    turns, responses = _compared(row)
    return _record(where, turns, responses, {**row, label: 0})


def _record(where: str, turns: Turns, responses: list[str], row: Mapping[str, Any]) -> dict[str, Any]:
    harms = [row.get(f"response_{i}_harm_category") for i in (0, 1)]
    return {
        "id": where,
        "turns": turns,
        **{f"response_{i}": responses[i] for i in (0, 1)},
        **{name: _binary(row, f"{name}_response_id") for name in ("better", "safer")},
        **{f"safe_{i}": _binary(row, f"is_response_{i}_safe") for i in (0, 1)},
        **{f"harms_{i}": _harms(harms[i]) for i in (0, 1)},
        "harms_known": int(None not in harms),
    }


def _binary(row: Mapping[str, Any], column: str) -> int:
    value = row.get(column)
    if value is None:
        return ABSENT
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise BadRow(f"{column} must be 0, 1 or null", value)
    return int(value)


def _harms(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise BadRow("harm categories must be a mapping of name to true or false", value)
    return sorted(_text(name, "a harm category") for name, present in value.items() if present)


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{column} must be text", "null" if value is None else value)
    if not is_utf8(value):
        raise BadRow(f"{column} holds half a surrogate pair, which UTF-8 cannot", value)
    return value


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "none"


def _no_prompt(row: Mapping[str, Any]) -> str:
    return "the prompt is null" if "prompt" in row else "there is no column prompt"


def _prompt(row: Mapping[str, Any]) -> Turns:
    """Return the turns of a prompt: a text, a dialogue, or messages, which end with the user's."""
    prompt = row.get("prompt")
    if prompt is None:
        raise BadRow(_no_prompt(row), _columns(row))
    if isinstance(prompt, list):
        turns = _messages(prompt, "prompt")
    else:
        text = _text(prompt, "prompt")
        turns = _dialogue(text) or [{"role": USER, "text": text}]
        if turns[-1] == {"role": ASSISTANT, "text": ""}:  # the opening of the answer
            turns.pop()
    return _asking(turns, "prompt")


def _asking(turns: Turns, column: str) -> Turns:
    """Return a conversation that something of the user's ends."""
    if not turns or turns[-1]["role"] != USER or not turns[-1]["text"].strip():
        raise BadRow(f"{column} has no text of the user's before the answer", turns[-1:])
    return turns


def _messages(value: list[Any], column: str) -> Turns:
    turns = []
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise BadRow(f"each message of {column} must have a role and a content", message)
        if message["role"] not in (SYSTEM, USER, ASSISTANT):
            raise BadRow(
                f"each role in {column} must be {SYSTEM}, {USER} or {ASSISTANT}", str(message["role"])
            )
        turns.append({"role": message["role"], "text": _text(message["content"], f"content in {column}")})
    return turns


def _dialogue(text: str) -> Turns | None:
    r"""Return the turns of "\n\nHuman: a\n\nAssistant: b", as hh-rlhf writes them; None for other text."""
    opening, *pieces = _TURN.split(text.lstrip())
    if opening or "Assistant" not in pieces[::2] or pieces[0] != "Human":
        return None
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": _ROLES[speaker], "text": said.strip()} for speaker, said in pairs]


def _compared(row: Mapping[str, Any]) -> tuple[Turns, list[str]]:
    """Return the conversation that both responses answer, and the responses."""
    prompt = [] if row.get("prompt") is None else _prompt(row)
    (turns, chosen), (other, rejected) = (_answered(prompt, row, name) for name in ("chosen", "rejected"))
    if turns != other:
        raise BadRow(
            "chosen and rejected differ before the last answer, so that they answer two conversations"
        )
    return turns, [chosen, rejected]


def _answered(prompt: Turns, row: Mapping[str, Any], column: str) -> tuple[Turns, str]:
    """Split a conversation at its last turn, the response; a text that is no dialogue is the response."""
    value = row[column]
    turns = _messages(value, column) if isinstance(value, list) else _dialogue(_text(value, column))
    if not prompt and (turns is None or {turn["role"] for turn in turns} == {ASSISTANT}):
        raise BadRow(f"{_no_prompt(row)}, and {column} is no dialogue", _columns(row))
    if turns is None:
        return prompt, value
    turns = _joined(prompt, turns, column)
    if not turns or turns[-1]["role"] != ASSISTANT:
        raise BadRow(f"{column} does not end with an answer of the assistant", turns[-1:])
    if turns[-2:-1] and turns[-2]["role"] == ASSISTANT:
        raise BadRow(f"{column} ends with several messages of the assistant; join them to one", turns[-2:])
    return _asking(turns[:-1], column), turns[-1]["text"]


def _joined(prompt: Turns, turns: Turns, column: str) -> Turns:
    """Return the whole conversation, of which ``turns`` are what follows the prompt, or all."""
    if not prompt or not turns or turns[0]["role"] == ASSISTANT:
        return prompt + turns
    system = [turn for turn in prompt if turn["role"] == SYSTEM]
    if turns[0]["role"] != SYSTEM:
        turns = system + turns
    asked, said = (
        [(turn["role"], turn["text"].strip()) for turn in each if turn["role"] != SYSTEM]
        for each in (prompt, turns)
    )
    # Some tables repeat the whole conversation, others name the last question the prompt.
    if any(turn not in turns for turn in system) or (said[: len(asked)] != asked and said[-2:-1] != asked):
        raise BadRow(f"{column} is a conversation of its own that does not hold the prompt", prompt[-1:])
    return turns
