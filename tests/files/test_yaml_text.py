"""YAML that a few lines make gigabytes of is refused, and anchors are not."""

import pytest
import yaml

from cann_jax.files.yaml_text import load_yaml


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
    "a large number of base 60": ("a: " + ":".join(["1"] * 200) + ".0", "too large"),
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
