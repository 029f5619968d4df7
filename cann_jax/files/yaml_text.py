"""YAML texts, as people's files and command lines hold them."""

import math
from typing import Any

import yaml

LONGEST = 1 << 16  # characters; PyYAML takes a second for these, and our longest configuration has 3,000
DIGITS = 1000  # of an integer; Python prints none of over 4300, which base 60 and 16 can write
VALUES = 10_000  # that a text may stand for: ten anchors of ten of the one before are 10¹⁰


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value that a text holds.

    Raises:
        yaml.YAMLError: It is not valid YAML, or too long. PyYAML itself raises other errors for some texts
            that are not: ValueError for the day 2025-02-30, RecursionError for a thousand brackets, and
            OverflowError for a number of base 60 with 200 parts.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text)} characters, and {LONGEST} are the most")
        return _loaded(loader(text))
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


def _loaded(loader: yaml.SafeLoader) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > VALUES:
            raise ValueError(f"with its anchors it holds over {VALUES} values; write them out, or fewer")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node stands for, each anchor counted wherever it is used."""
    if id(node) not in known:
        known[id(node)] = math.inf  # meanwhile: an anchor within itself
        if node.tag.endswith(":int") and len(node.value) > DIGITS:
            raise ValueError(f"an integer has {len(node.value)} characters, and {DIGITS} are the most")
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for each in inner for part in (each if isinstance(each, tuple) else (each,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
