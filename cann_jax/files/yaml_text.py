"""YAML texts, as people's files and command lines hold them."""

import math
import re
from typing import Any

import yaml

LONGEST = 1 << 16  # characters; PyYAML takes a second for these, and our longest configuration has 3,000
DIGITS = 1000  # of an integer; Python prints none of over 4300, which base 16 can write
VALUES = 10_000  # that a text may stand for: ten anchors of ten of the one before are 10¹⁰

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# As YAML 1.2 has them. PyYAML reads those of 1.1, where 010 is 8, 1:30 is 90 and 1e3 a text.
_NUMBERS = {
    _INT: re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    _FLOAT: re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class RepeatedKeyError(yaml.constructor.ConstructorError):
    """A mapping gives a key twice; ``problem`` says which."""


class _Loader(yaml.SafeLoader):
    """PyYAML's, but for numbers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        base = {"0b": 2, "0x": 16}.get(text.lstrip("+-")[:2], 10)
        return int(text, base)


class _Dumper(yaml.SafeDumper):
    """Puts into quotation marks also what ``_Loader`` alone takes for a number, such as the text 1e3."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
for _tag, _pattern in _NUMBERS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


def load_yaml(text: str) -> Any:
    """Return the value that a text holds.

    Raises:
        RepeatedKeyError: A mapping gives a key twice, of which PyYAML would silently keep the last.
        yaml.YAMLError: It is not valid YAML, or too long. PyYAML itself raises other errors for some texts
            that are not: ValueError for the day 2025-02-30, and RecursionError for a thousand brackets.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text)} characters, and {LONGEST} are the most")
        return _loaded(_Loader(text))
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


def dump_yaml(value: Any) -> str:
    """Return a text of which ``load_yaml`` reads the value, as a file that people read."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


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
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for each in inner for part in (each if isinstance(each, tuple) else (each,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise RepeatedKeyError if a key is given twice; here, before merged keys of anchors stand beside it."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise RepeatedKeyError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
