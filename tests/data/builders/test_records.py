"""Rows as records: which turns are read, and which rows are refused."""

import pytest

from cann_jax.data.builders.records import BadRow, columns_read, record
from cann_jax.files.errors import InputError
from tests.builders.preferences import dialogue, hh_row

U, A, SYSTEM = (
    lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system")
)
PAST = [U("Is soup a drink?"), A("It depends."), U("On what?")]
SAME = ["Is soup a drink?", "It depends.", "On what?"]
READ = {
    "whole conversations": ({"chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]}, SAME),
    "beside their prompt": ({"prompt": PAST, "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]}, SAME),
    "beside their first question": (
        {"prompt": "Is soup a drink?", "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]},
        SAME,
    ),
    "beside their last question": (
        {"prompt": "On what? ", "chosen": [*PAST, A("x")], "rejected": [*PAST, A("y")]},
        SAME,
    ),
    "the rest of one": (
        {"prompt": PAST[:1], "chosen": [*PAST[1:], A("x")], "rejected": [*PAST[1:], A("y")]},
        SAME,
    ),
    "a system message before the prompt": (
        {
            "prompt": "Hi",
            "chosen": [SYSTEM("s"), U("Hi"), A("x")],
            "rejected": [SYSTEM("s"), U("Hi"), A("y")],
        },
        ["s", "Hi"],
    ),
    "one in the prompt alone": (
        {"prompt": [SYSTEM("s"), U("Hi")], "chosen": [U("Hi"), A("x")], "rejected": [A("y")]},
        ["s", "Hi"],
    ),
    "a dialogue as prompt": (
        {"prompt": dialogue(*SAME) + "\n\nAssistant:", "chosen": " x", "rejected": " y"},
        SAME,
    ),
    "dialogues beside their prompt": (
        {"prompt": SAME[0], "chosen": dialogue(*SAME, "x"), "rejected": dialogue(*SAME, "y")},
        SAME,
    ),
    "a text that mentions a speaker": (
        {"prompt": "Human: is that a role?", "chosen": "x", "rejected": "y"},
        ["Human: is that a role?"],
    ),
}


@pytest.mark.parametrize("row, turns", READ.values(), ids=READ)
def test_the_response_is_the_last_turn_and_the_rest_is_context(row, turns):
    found = record("x:1", row, "better")
    assert [turn["text"] for turn in found["turns"]] == turns and found["turns"][-1]["role"] == "user"
    assert [found[f"response_{i}"].strip() for i in (0, 1)] == ["x", "y"]


REFUSED = {
    "there is no column prompt, and chosen is no dialogue ('instruction, chosen, rejected')": {
        "instruction": "Hi",
        "chosen": "x",
        "rejected": "y",
    },
    "the prompt is null, and rejected is no dialogue": {
        "prompt": None,
        "chosen": [*PAST, A("x")],
        "rejected": [A("y")],
    },
    "there is no column prompt ('question, response_0, response_1')": {
        "question": "Hi",
        "response_0": "x",
        "response_1": "y",
    },
    "chosen does not end with an answer": {"chosen": PAST, "rejected": PAST},
    "rejected does not end with an answer": {"prompt": "Hi", "chosen": "x", "rejected": [U("Hi")]},
    "chosen ends with several messages of the assistant": {
        "prompt": "Hi",
        "chosen": [A("x"), A("z")],
        "rejected": [A("y")],
    },
    "differ before the last answer": {
        "chosen": [U("a"), A("b"), U("c"), A("x")],
        "rejected": [U("a"), A("other"), U("c"), A("y")],
    },
    "that does not hold the prompt": {
        "prompt": "Hi",
        "chosen": [U("Ho"), A("x")],
        "rejected": [U("Ho"), A("y")],
    },
    "has no text of the user's before the answer": {"prompt": [U(" ")], "chosen": "x", "rejected": "y"},
    "each role in chosen must be system, user or assistant ('tool')": {
        "prompt": "Hi",
        "chosen": [{"role": "tool", "content": "x"}],
        "rejected": [A("y")],
    },
    "must have a role and a content": {"chosen": [{"from": "human", "value": "a"}], "rejected": []},
    "content in chosen must be text": {"prompt": "a", "chosen": [A(["x"])], "rejected": "y"},
    "prompt holds half a surrogate pair": {"prompt": "a \ud83d", "chosen": "x", "rejected": "y"},
    "content in rejected holds half": {"prompt": "a", "chosen": "x", "rejected": [A("\udc00")]},
    "better_response_id must be 0 or absent": {
        "prompt": "a",
        "chosen": "x",
        "rejected": "y",
        "better_response_id": 1,
    },
}


@pytest.mark.parametrize("said", REFUSED)
def test_rows_that_hold_no_two_answers_to_one_conversation(said):
    with pytest.raises(BadRow) as error:
        record("x:1", REFUSED[said], "better")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_columns_are_those_of_one_layout():
    numbered, chosen = {"prompt": "a", "response_0": "b", "response_1": "c"}, {"chosen": "b", "rejected": "c"}
    both = numbered | chosen | {"margin": 1, "is_response_1_safe": True}
    assert both.keys() - columns_read(both) == {"chosen", "rejected", "margin"}
    assert chosen.keys() <= columns_read(chosen) and "response_0" not in columns_read(chosen)


def test_chosen_needs_a_meaning():
    with pytest.raises(InputError, match=r"set preferences\.chosen_is to better or safer"):
        record("x:1", hh_row(1), None)
