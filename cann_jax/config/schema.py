"""Frozen dataclasses from plain mappings (YAML, JSON, flags), each mistake as one line that names its key."""

import contextlib
import difflib
import functools
import math
import operator
import textwrap
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from cann_jax.files.errors import InputError

T = TypeVar("T")


class SchemaError(InputError):
    """A mapping that does not fit its dataclass; ``key`` is the full dotted key at fault."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key


def from_mapping(cls: type[T], values: Any, key: str = "") -> T:
    """Build the dataclass ``cls``, and those nested in it, from a mapping.

    A text stands for the value it spells ("0.2", "false", "[a, b]"), so flags need no parsing before.

    Args:
        cls: The dataclass.
        values: Its fields by name; what is absent takes the field's default.
        key: Dotted key of ``values`` itself, for messages.

    Raises:
        SchemaError: An unknown key (names the nearest valid one), a missing one or a value of another type.
    """
    hints, items = get_type_hints(cls, include_extras=True), fields(cast(Any, cls))
    absent_sections: dict = {f.name: {} for f in items if is_required(f) and is_dataclass(hints[f.name])}
    values = {**absent_sections, **_as_mapping(values, key)}
    for name in values:
        if name not in hints:
            raise SchemaError(
                dotted(key, name), f"is not a key; did you mean {_nearest_key(cls, name, key)}?"
            )
    for item in items:
        if is_required(item) and item.name not in values:
            expected = type_name(hints[item.name])
            raise SchemaError(dotted(key, item.name), f"is missing; it must be {expected}")
    return cls(**{name: _convert(hints[name], value, dotted(key, name)) for name, value in values.items()})


def dotted(key: str, name: object) -> str:
    """``key.name``, or ``name`` at the top."""
    return f"{key}.{name}" if key else str(name)


def nearest(word: str, words: Iterable[str]) -> str:
    """The most similar of ``words``, however far off it is."""
    return difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.0)[0]


def is_required(item: Field) -> bool:
    """Whether a dataclass field has no default."""
    return item.default is MISSING and item.default_factory is MISSING


def section_type(hint: Any) -> type | None:
    """The dataclass ``X`` of ``X`` or ``X | None``; None for any other type."""
    inner = _unwrap(hint)
    return cast(type, inner) if is_dataclass(inner) else None


def named_section_type(hint: Any) -> type | None:
    """The dataclass ``X`` of ``dict[str, X]``; None for any other type."""
    return section_type(get_args(hint)[1]) if get_origin(hint) is dict else None


def type_name(hint: Any) -> str:
    """What a value of this type must be, in words."""
    if get_origin(hint) is Annotated:
        return type_name(get_args(hint)[0])
    if _is_union(hint):
        return " or ".join(type_name(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list like [a, b]"
    if get_origin(hint) is dict or is_dataclass(hint):
        return "a mapping"
    names = {str: "text", int: "an integer", float: "a finite number", bool: "true or false"}
    return names.get(hint, "null")


def _unwrap(hint: Any) -> Any:
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if _is_union(hint) and len(members) == 1 else hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _nearest_key(cls: type, name: object, key: str) -> str:
    """A key of this name further inside, else the most similar one beside."""
    deeper = (inside for inside in _keys_inside(cls) if inside.rpartition(".")[2] == name)
    return dotted(key, next(deeper, None) or nearest(str(name), get_type_hints(cls)))


def _keys_inside(cls: type) -> Iterable[str]:
    for name, hint in get_type_hints(cls).items():
        yield name
        if inner := section_type(hint):
            yield from (dotted(name, deeper) for deeper in _keys_inside(inner))


def _convert(hint: Any, value: Any, key: str) -> Any:
    plain, section = _unwrap(hint), section_type(hint)
    if plain is not hint and value in (None, "null"):
        return None
    if section is not None:
        return from_mapping(section, value, key)
    if get_origin(plain) is dict:
        return {name: _convert(get_args(plain)[1], v, dotted(key, name)) for name, v in _named(value, key)}
    return value if plain is Any else _leaf(hint, value, key)


def _named(value: Any, key: str) -> Iterable[tuple[str, Any]]:
    for name, inner in _as_mapping(value, key).items():
        if not isinstance(name, str) or not name or "." in name:
            raise SchemaError(key, f"holds the name {name!r}; use a non-empty text without a dot")
        yield name, inner


def _as_mapping(value: Any, key: str) -> Mapping:
    with contextlib.suppress(yaml.YAMLError):  # what cannot be read stays a text, refused below
        value = yaml.safe_load(value) if isinstance(value, str) else value
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(value, key, "a mapping")
    return value


def _leaf(hint: Any, value: Any, key: str) -> Any:
    if get_origin(hint) is Annotated:
        plain, *ranges = get_args(hint)
        result = _leaf(plain, value, key)
        for each in ranges:
            _check_range(each, result, key)
        return result
    if value is None:  # jsonargparse takes None for every type
        raise _wrong(value, key, type_name(hint))
    try:
        result = _leaf_parser(hint).parse_object({"value": value}).value
    except ArgumentError:
        raise _wrong(value, key, type_name(hint)) from None
    if isinstance(result, float) and not math.isfinite(result):
        raise _wrong(value, key, type_name(hint))
    return result


def _check_range(bounds: Any, value: Any, key: str) -> None:
    for name, words, holds in (
        ("gt", "greater than", operator.gt),
        ("ge", "at least", operator.ge),
        ("lt", "less than", operator.lt),
        ("le", "at most", operator.le),
    ):
        bound = getattr(bounds, name, None)
        if bound is not None and not holds(value, bound):
            raise _wrong(value, key, f"{words} {bound}")


@functools.cache
def _leaf_parser(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _wrong(value: Any, key: str, expected: str) -> SchemaError:
    given = "null" if value is None else textwrap.shorten(repr(value), 80, placeholder=" …")
    return SchemaError(key, f"is {given}; it must be {expected}")
