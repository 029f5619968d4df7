"""Command-line arguments to a command's own flags and, where it has one, its configuration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import yaml

from cann_jax.command_line.commands import Command, Flags
from cann_jax.command_line.yaml_file import read_yaml
from cann_jax.config.schema import (
    SchemaError,
    field_types,
    from_mapping,
    is_required,
    named_section_type,
    section_type,
)
from cann_jax.files.errors import InputError, listed, nearest, shown
from cann_jax.files.yaml_text import RepeatedKeyError, load_yaml

Config = TypeVar("Config")
Pairs = list[tuple[str, str]]


def parse_flags(argv: Sequence[str], command: Command[Flags]) -> Flags:
    """Parse the arguments of a command without a configuration.

    Raises:
        InputError: One line that names the flag and says how to fix it.
        SystemExit: After ``--help``.
    """
    _help_if_asked(argv, command)
    return _own_flags(list(_pairs(argv, command, ())), command)


def parse_configured(
    argv: Sequence[str],
    command: Command[Flags],
    schema: type[Config],
    variants: Mapping[str, type] | None = None,
) -> tuple[Config, Flags]:
    """Parse the arguments of a command whose flag ``--config`` names a YAML file.

    Args:
        argv: The command's own flags, and dotted keys that override the file's.
        command: The command; where its ``config`` may be null, flags alone will do.
        schema: Dataclass of the configuration.
        variants: For the help text: dataclasses of which one section takes its keys, by title.

    Raises:
        InputError: One line that names the key, where it was given, and how to fix it.
        SystemExit: After ``--help``.
    """
    _help_if_asked(argv, command, schema, variants)
    own = get_type_hints(command.flags)
    pairs = list(_pairs(argv, command, tuple(get_type_hints(schema))))
    flags = _own_flags([(key, text) for key, text in pairs if key in own], command)
    overrides = [(key, text) for key, text in pairs if key not in own]
    path = cast(Any, flags).config
    written: dict[str, Any] = {} if path is None else read_yaml(path)
    values = written
    for key, text in overrides:
        values = _overridden(values, key.split("."), key, text)
    try:
        return from_mapping(schema, values), flags
    except SchemaError as error:
        problem = _placed(error, schema, path, written, [key for key, _ in overrides])
        raise InputError(problem) from None


def _placed(
    error: SchemaError, schema: type, path: str | None, written: Mapping[str, Any], keys: Sequence[str]
) -> str:
    """Return the message of an error with where its cause was given: in the file, or by flags, the ``keys``.

    A flag has caused what is wrong with its own value or section, with a section that the file does not have,
    or with a file that is right by itself.
    """
    if path is None or any(_within(key, error.key) or _within(error.key, key) for key in keys):
        return f"command line: {error}"
    for key in keys:
        made = _new_section(written, key)
        if made is not None and _within(error.key, made):
            return f"command line: {_unknown_name(schema, path, written, key, made)}{error}"
    return f"{'command line' if keys and _is_right(schema, written) else path}: {error}"


def _within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _is_right(schema: type, values: Mapping[str, Any]) -> bool:
    try:
        from_mapping(schema, values)
    except SchemaError:
        return False
    return True


def _new_section(written: Mapping[str, Any], key: str) -> str | None:
    """Return the outermost section of a key, or the key, that the file does not have."""
    names, inner = key.split("."), cast(Any, written)
    for depth, name in enumerate(names, 1):
        if not isinstance(inner, Mapping) or name not in inner:
            return ".".join(names[:depth])
        inner = inner[name]
    return None


def _unknown_name(schema: type, path: str, written: Mapping[str, Any], key: str, made: str) -> str:
    """Return which names there are, where a flag's section is one of those by name; else nothing."""
    *above, name = made.split(".")
    hint, inner = cast(Any, schema), cast(Any, written)
    for part in above:
        section = section_type(hint)
        hint = named_section_type(hint) or (None if section is None else field_types(section).get(part))
        inner = inner[part]
    if named_section_type(hint) is None or not inner:
        return ""
    found = nearest(name, inner)
    meant = "" if found is None else f" (did you mean --{'.'.join([*above, found])}{key[len(made) :]}?)"
    return f"--{key}: {path} has no {made}, only {listed(list(inner))}{meant}, and "


def _pairs(argv: Sequence[str], command: Command[Any], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield ``--key value`` and ``--key=value`` as pairs; a switch without a value means true."""
    hints, tokens = get_type_hints(command.flags), list(argv)
    while tokens:
        token = tokens.pop(0)
        flag, has_value, value = token.partition("=")
        if not flag.startswith("--") or flag == "--":
            if command.positional is None:
                raise InputError(f"command line: unexpected {token!r}; settings are given as --key value")
            yield command.positional, token
            continue
        _refuse_unknown(flag[2:], list(hints), keys)
        if not has_value:
            bare = not tokens or tokens[0].startswith("--")
            if bare and hints.get(flag[2:]) is not bool:
                raise InputError(f"command line: {flag} needs a value; write {flag} VALUE")
            value = "true" if bare else tokens.pop(0)
        yield flag[2:], value


def _refuse_unknown(name: str, own: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse what is not a flag; beside a configuration, only what looks like one (``--dry-run``)."""
    if name in own:
        return
    near = nearest(name, [*own, "help", *keys])
    if near in (*own, "help"):
        raise InputError(f"command line: --{name} is not an option; did you mean --{near}?")
    if not keys:
        raise InputError(f"command line: --{name} is not an option; --help lists them")


def _own_flags(pairs: Pairs, command: Command[Flags]) -> Flags:
    """Build the dataclass of the command's own flags; those of tuple type collect what they are given."""
    hints, values = get_type_hints(command.flags), dict[str, Any]()
    for name, text in pairs:
        if get_origin(hints[name]) is tuple:
            values.setdefault(name, []).append(text)
        elif name in values and name == command.positional:
            raise InputError(f"command line: {text!r} is one argument too many; give one")
        elif name in values:
            raise InputError(f"command line: --{name} is given twice; give it once")
        else:
            values[name] = text
    for item in fields(cast(Any, command.flags)):
        if is_required(item) and item.name not in values:
            what = "an argument" if item.name == command.positional else f"--{item.name}"
            raise InputError(f"command line: {what} is missing; see python -m {command.module} --help")
    try:
        return from_mapping(command.flags, values)
    except SchemaError as error:
        dashes = "" if error.key == command.positional else "--"
        raise InputError(f"command line: {dashes}{error}") from None


def _overridden(values: Mapping[str, Any], path: Sequence[str], key: str, text: str) -> dict[str, Any]:
    """Return a copy with ``text`` at ``path``; a copy, because YAML anchors share mappings between keys."""
    name, *rest = path
    if not rest:
        return {**values, name: text}
    inner = _spelled(values.get(name))
    if not isinstance(inner, dict | None):
        above = ".".join(key.split(".")[: -len(rest)])
        raise InputError(f"command line: --{key}: {above} is {inner!r} and holds no keys")
    return {**values, name: _overridden(inner or {}, rest, key, text)}


def _spelled(value: Any) -> Any:
    """Return the mapping or the null that an earlier flag has spelled; any other value as it is."""
    try:
        found = load_yaml(value) if isinstance(value, str) else value
    except RepeatedKeyError as error:
        raise InputError(f"command line: {shown(value)}: {error.problem}, leave one") from None
    except yaml.YAMLError:
        return value
    return found if isinstance(found, Mapping | None) else value


def wants_help(argv: Sequence[str]) -> bool:
    """Return whether the arguments ask for the help text."""
    return bool({"-h", "--help"} & set(argv))


def _help_if_asked(argv: Sequence[str], *described: Any) -> None:
    """Print the help text and exit, if the arguments ask for it; the others are those of ``help_text``."""
    if not wants_help(argv):
        return
    from cann_jax.command_line.help import help_text

    # Flushed here, so that ``--help | head`` fails in run_command and not while Python exits.
    print(help_text(*described), flush=True)
    raise SystemExit(0)
