"""YAML that a few lines make gigabytes of is refused, and anchors are not."""

import pytest
import yaml

from cann_jax.files.yaml_text import dump_yaml, load_yaml


def doubled(first: str, rest: str) -> str:
    """Forty anchors, each of two of the one before."""
    lines = [f"a0: &a0 {first}", *(f"a{n}: &a{n} " + rest.replace("*", f"*a{n - 1}") for n in range(1, 40))]
    return "\n".join(lines)


HOSTILE = {
    "lists": (doubled("[x, x]", "[*, *]"), "over 10000 values"),
    "merges": (doubled("{x: 1}", "{<<: [*, *]}"), "over 10000 values"),
    "an anchor of itself": ("a: &a [*a]", "over 10000 values"),
    "a long text": ("a: [" + "1," * 10**6 + "1]", "65536 are the most"),
    "base 60": ("a: 1" + ":1" * 10**6, "65536 are the most"),
    "a key that is given twice": ("a: 1\nb: {c: 1, c: 2}", "key 'c' is given twice"),
    "an integer that cannot be printed": ("a: 0x" + "f" * 5000, "an integer has 5002 characters"),
    "deep": ("[" * 60_000, "recursion"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name):
    text, said = HOSTILE[name]
    with pytest.raises(yaml.YAMLError, match=said):  # before what would take gigabytes or minutes
        load_yaml(text)


def test_as_pyyaml_reads_it():
    text = "a: &a {x: [1, 2.5, null, yes, 2025-01-31]}\nb: {<<: *a, y: *a}\nc: 'text'\n"
    assert load_yaml(text) == yaml.safe_load(text)
    assert load_yaml("") is None and load_yaml("7") == 7


@pytest.mark.parametrize(
    "text, value",
    [
        *(("010", 10), ("-010", -10), ("09", 9), ("0", 0), ("+1_000", 1000), ("0x1F", 31), ("-0b11", -3)),
        *(("1e3", 1000.0), ("-2.5E-3", -0.0025), (".5", 0.5), ("5.", 5.0), ("010.5", 10.5)),
        *(
            ("1:30", "1:30"),
            ("1:30.5", "1:30.5"),
            ("0o10", "0o10"),
            ("1.2.3", "1.2.3"),
            (".", "."),
        ),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    """PyYAML reads those of YAML 1.1: 010 as 8, 1:30 as 90, and 1e3 as a text."""
    found = load_yaml(text)
    assert found == value and type(found) is type(value)


def test_what_is_written_is_read_as_it_was():
    values = {"texts": ["1e3", "08", "010", "1:30", "0x1", "yes", "2025-01-31", "é: 1"], "n": [1e-5, 1e22, 8]}
    assert load_yaml(dump_yaml(values)) == values == yaml.safe_load(dump_yaml(values))


def test_a_key_that_an_anchor_gives_too_is_given_once():
    text = "m: {b: &b {<<: &a {x: 1}, x: 2}}\nc: {<<: *b, x: 3}\n"
    assert load_yaml(text) == {"m": {"b": {"x": 2}}, "c": {"x": 3}}
