"""Build frozen dataclasses from plain mappings (YAML, JSON, flags); each mistake is one line with its key."""

import functools
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import annotated_types
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from cann_jax.config.ranges import Must
from cann_jax.files.errors import InputError, listed, nearest, shown
from cann_jax.files.json_lines import is_utf8
from cann_jax.files.yaml_text import RepeatedKeyError, load_yaml

T = TypeVar("T")


class SchemaError(InputError):
    """A mapping that does not fit its dataclass; ``key`` is the full dotted key at fault."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key


def from_mapping(cls: type[T], values: Any, key: str = "") -> T:
    """Build the dataclass ``cls``, and those nested in it, from a mapping.

    A text stands for the value it spells ("0.2", "false", "[a, b]"), so flags need no parsing before.
    ``cls.variant(values, key)`` chooses the subclass to build, and ``conflicts()`` of what was built yields
    (field, problem) for values that do not fit together, where a class has them.

    Args:
        cls: The dataclass.
        values: Its fields by name; what is absent takes the field's default.
        key: Dotted key of ``values`` itself, for messages.

    Raises:
        SchemaError: An unknown key (names the nearest valid one), a missing one, a value of another type or
            outside its range, or values that do not fit together.
    """
    given = _as_mapping(values, key)
    cls = getattr(cls, "variant", lambda *_: cls)(given, key)
    hints, items = field_types(cls), fields(cast(Any, cls))
    absent_sections: dict[str, Any] = {
        f.name: {} for f in items if is_required(f) and is_dataclass(hints[f.name])
    }
    complete = {**absent_sections, **given}
    for name in complete:
        if name not in hints:
            raise SchemaError(dotted(key, name), f"is not a key; {_key_hint(cls, str(name), key)}")
    for item in items:
        if is_required(item) and item.name not in complete:
            expected = type_name(hints[item.name])
            raise SchemaError(dotted(key, item.name), f"is missing; it must be {expected}")
    made = cls(**{name: _convert(hints[name], value, dotted(key, name)) for name, value in complete.items()})
    for name, problem in getattr(made, "conflicts", tuple)():
        raise SchemaError(dotted(key, name) if name else key, problem)
    return made


def field_types(cls: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, ranges included."""
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in fields(cast(Any, cls))}


def dotted(key: str, name: object) -> str:
    """Return ``key.name``, or ``name`` at the top."""
    return f"{key}.{name}" if key else str(name)


def is_required(item: Field[Any]) -> bool:
    """Return whether a dataclass field has no default."""
    return item.default is MISSING and item.default_factory is MISSING


def section_type(hint: Any) -> type | None:
    """Return the dataclass ``X`` of ``X`` or ``X | None``; None for any other type."""
    inner = _unwrap(hint)
    return cast(type, inner) if is_dataclass(inner) else None


def named_section_type(hint: Any) -> type | None:
    """Return the dataclass ``X`` of ``dict[str, X]``; None for any other type."""
    return section_type(get_args(hint)[1]) if get_origin(hint) is dict else None


def type_name(hint: Any) -> str:
    """Return what a value of this type must be, in words."""
    if _is_union(hint):
        return " or ".join(type_name(member) for member in get_args(hint))
    if get_origin(hint) is Annotated:
        conditions = [limit.words for limit in limits(hint) if isinstance(limit, Must)]
        ranges = " and ".join(_range_words(limit) for limit in limits(hint) if not isinstance(limit, Must))
        return ": ".join([f"{type_name(get_args(hint)[0])} {ranges}".strip(), *conditions])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "a list like [a, b]"
    if get_origin(hint) is dict or is_dataclass(hint):
        return "a mapping"
    names = {str: "text", int: "an integer", float: "a finite number", bool: "true or false"}
    return names.get(hint, "null")


def literals(hint: Any) -> tuple[str, ...]:
    """Return the words that a value of this type must be one of; none where it is not one of a few."""
    if _is_union(hint):
        members = [literals(member) for member in get_args(hint) if member is not type(None)]
        return (*(word for words in members for word in words), "null") if all(members) else ()
    return tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()


def limits(hint: Any) -> list[Any]:
    """Return the limits that a type carries (``Ge``, ``Must``, …), intervals taken apart."""
    if get_origin(hint) is not Annotated:
        return []
    found: list[Any] = []
    for limit in get_args(hint)[1:]:
        found += list(limit) if isinstance(limit, annotated_types.GroupedMetadata) else [limit]
    return found


# Each limit's name, its words, and whether a value keeps it.
_LIMITS: dict[type, tuple[str, str, Any]] = {
    annotated_types.Ge: ("ge", "of at least {}", lambda value, limit: value >= limit),
    annotated_types.Gt: ("gt", "above {}", lambda value, limit: value > limit),
    annotated_types.Le: ("le", "of at most {}", lambda value, limit: value <= limit),
    annotated_types.Lt: ("lt", "below {}", lambda value, limit: value < limit),
    annotated_types.MinLen: ("min_length", "that is not empty", lambda value, limit: len(value) >= limit),
}


def _range_words(limit: Any) -> str:
    name, words, _ = _LIMITS[type(limit)]
    return words.format(getattr(limit, name))


def _keeps(value: Any, limit: Any) -> bool:
    if isinstance(limit, Must):
        return limit.holds(value)
    name, _, holds = _LIMITS[type(limit)]
    return bool(holds(value, getattr(limit, name)))


def _unwrap(hint: Any) -> Any:
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if _is_union(hint) and len(members) == 1 else hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _key_hint(cls: type, name: str, key: str) -> str:
    """Return the key that is meant: one of this name further inside, else a similar one beside; or all."""
    deeper = (inside for inside in _keys_inside(cls) if inside.rpartition(".")[2] == name)
    found = next(deeper, None) or nearest(name, field_types(cls))
    return (
        f"did you mean {dotted(key, found)}?" if found else f"the keys are {listed(list(field_types(cls)))}"
    )


def _keys_inside(cls: type) -> Iterator[str]:
    for name, hint in field_types(cls).items():
        yield name
        if inner := section_type(hint):
            yield from (dotted(name, deeper) for deeper in _keys_inside(inner))


def _convert(hint: Any, value: Any, key: str) -> Any:
    plain, section = _unwrap(hint), section_type(hint)
    if plain is not hint and value in (None, "null"):
        return None
    plain = _member(plain, value)
    if section is not None:
        return from_mapping(section, value, key)
    if get_origin(plain) is dict:
        name_type, inner = get_args(plain)
        return {
            _in_range(name_type, n, dotted(key, n)): _convert(inner, v, dotted(key, n))
            for n, v in _named(value, key)
        }
    return _leaf(plain, value, key, hint)


def _member(hint: Any, value: Any) -> Any:
    """Return the member of a union of a mapping and one other type that a value is meant for."""
    members = get_args(hint) if _is_union(hint) else ()
    mappings = [each for each in members if get_origin(each) is dict]
    if not mappings:
        return hint
    braces = isinstance(value, str) and value.lstrip().startswith("{")
    (other,) = (each for each in members if each not in mappings)
    return mappings[0] if braces or isinstance(value, Mapping) else other


def _named(value: Any, key: str) -> Iterable[tuple[str, Any]]:
    for name, inner in _as_mapping(value, key).items():
        if not isinstance(name, str) or not name or "." in name:
            raise SchemaError(key, f"holds the name {name!r}; use a non-empty text without a dot")
        yield name, inner


def _as_mapping(value: Any, key: str) -> Mapping[str, Any]:
    try:
        value = load_yaml(value) if isinstance(value, str) else value
    except RepeatedKeyError as error:
        raise SchemaError(key, f"is {shown(value)}; {error.problem}, leave one") from None
    except yaml.YAMLError:  # what cannot be read stays a text, refused below
        pass
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _wrong(value, key, "a mapping")
    for name in (name for name, inner in value.items() if inner is None and ":" in str(name)):
        spaced = str(name).replace(":", ": ", 1)
        raise SchemaError(key, f"holds {str(name)!r} without a value; put a space after the colon: {spaced}")
    return value


def _leaf(plain: Any, value: Any, key: str, hint: Any) -> Any:
    """Parse one value; ``hint`` is its whole type, for messages, and ``plain`` the type without null."""
    if value is None:  # jsonargparse takes None for every type
        raise _wrong(value, key, type_name(hint))
    bare = _bare(plain)
    read = _read(value) if bare in (int, float, bool) or get_origin(bare) is tuple else value
    try:
        # A millisecond each; most values of a file have their type already.
        result = read if type(read) is bare else _leaf_parser(bare).parse_object({"value": read}).value
    except ArgumentError:
        raise _wrong(value, key, type_name(hint)) from None
    numbers = result if isinstance(result, tuple) else (result,)
    parts = read if isinstance(read, list | tuple) else (read,)
    # jsonargparse has a reader of its own, of YAML 1.1, which takes the text 1:30 for 90.
    pairs = zip(parts, numbers, strict=False)
    if any(isinstance(part, str) and made not in (part, _read(part)) for part, made in pairs):
        raise _wrong(value, key, type_name(hint))
    texts = [text for text in numbers if isinstance(text, str)]
    if not all(map(is_utf8, texts)) or "\0" in "".join(texts):
        raise SchemaError(
            key, "holds half a surrogate pair or a byte that is zero or not UTF-8; write it anew"
        )
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise _wrong(value, key, type_name(hint))
    for item in numbers if isinstance(result, tuple) else ():
        _in_range(get_args(_bare_outside(plain))[0], item, key)
    return _in_range(plain, result, key)


def _read(value: Any) -> Any:
    """Return what a text spells; any other value, and a text that spells none or null, as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = load_yaml(value)
    except yaml.YAMLError:
        return value
    return value if found is None else found


def _in_range(hint: Any, value: Any, key: str) -> Any:
    """Return the value.

    Raises:
        SchemaError: It is outside the range that its type carries.
    """
    for limit in limits(hint):
        if not _keeps(value, limit):
            raise _wrong(value, key, type_name(hint))
    return value


def _bare_outside(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _bare(hint: Any) -> Any:
    """Return the type without ranges, also within a tuple: jsonargparse knows nothing of them."""
    inside = _bare_outside(hint)
    if get_origin(inside) is tuple:
        return tuple[tuple(each if each is ... else _bare(each) for each in get_args(inside))]  # type: ignore[misc]
    return inside


@functools.cache
def _leaf_parser(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _wrong(value: Any, key: str, expected: str) -> SchemaError:
    given = "null" if value is None else shown(value)
    return SchemaError(key, f"is {given}; it must be {expected}")
