"""How messages quote values: as Python does, cut, and at no cost for a value of any size."""

import pytest

from cann_jax.files.errors import shown
from tests.builders.limits import fault

VALUES = [
    *(
        None,
        True,
        1.5,
        -3,
        "x",
        "it's",
        '"it\'s"',
        b"x",
        "é\u202e\ud83d\n",
        {1},
        "a" * 78,
        "a" * 79,
        "a" * 5000,
    ),
    *((), (1,), (1, "a"), [], [1, [2, ()]], {}, {"a": [1], 2: {"b": None}}),
    *(list(range(99)), {str(number): number for number in range(99)}),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_as_python_writes_it(value):
    text = repr(value)
    assert shown(value) == (text if len(text) <= 80 else f"{text[:78]} …")


def doubled(kind) -> object:
    value = kind()
    for _ in range(60):
        value = kind([value, value])
    return value


def test_values_of_any_size():
    endless: list = []
    endless.append(endless)
    named: dict = {}
    named["x"] = named
    for value in (
        doubled(list),
        doubled(tuple),
        endless,
        named,
        "a" * (1 << 24),
        1 << (1 << 20),
        [0] * (1 << 20),
    ):
        assert len(shown(value)) == 80
        assert not fault(shown, value)
