"""The help text of a command, written from the docstrings and types of its dataclasses."""

import argparse
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, get_origin, get_type_hints

import docstring_parser

from cann_jax.command_line.commands import COMMANDS, Command
from cann_jax.config.schema import (
    dotted,
    is_required,
    literals,
    named_section_type,
    section_type,
    type_name,
)

Arguments = dict[str, dict[str, Any]]  # what argparse's add_argument takes, by key


class Setting(NamedTuple):
    """A key that a user may set, as help text and documentation describe it.

    Args:
        key: Its dotted key.
        metavar: What stands for its value.
        meaning: What it decides.
        expected: What its value must be, in words.
        default: Its default as one writes it in a YAML file; None where it is required.
        choices: The values, where it must be one of a few words.
    """

    key: str
    metavar: str
    meaning: str
    expected: str
    default: str | None
    choices: tuple[str, ...]


def help_text(
    command: Command[Any], schema: type | None = None, variants: Mapping[str, type] | None = None
) -> str:
    """Return the whole help text; arguments as in ``parse_configured``."""
    groups = [("Flags", own_arguments(command))]
    if schema is not None:
        groups += configured_arguments(schema)
    for title, variant in (variants or {}).items():
        groups += _groups(variant, "SCORER", f"{title}: {summary(variant)}")
    description = inspect.cleandoc(command.flags.__doc__ or "").partition("\nArgs:")[0].rstrip() + "\n"
    rendered = [_render(title, arguments) for title, arguments in groups if arguments]
    return "\n".join([_usage(command), "", description, *command.notes, *rendered])


def command_list() -> str:
    """Return one line for each command, and how to learn more."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(command.flags)}" for name, command in COMMANDS.items()]
    more = "cann-jax COMMAND --help lists the flags of one; cann-jax --version prints the version."
    return "\n".join(["usage: cann-jax COMMAND ...", "", *lines, "", more])


def summary(schema: type) -> str:
    """Return the first line of a dataclass's docstring."""
    return str(docstring_parser.parse(schema.__doc__ or "").short_description)


def _usage(command: Command[Any]) -> str:
    documented, hints = _documented(command.flags), get_type_hints(command.flags)
    required = {f.name: documented[f.name][0] for f in fields(command.flags) if is_required(f)}
    positional = required.pop(command.positional or "", None)
    flags = [f"--{name} {metavar}" for name, metavar in required.items()]
    if positional is not None:
        flags.append(positional)
    many = positional is not None and get_origin(hints[str(command.positional)]) is tuple
    return " ".join(["usage: python -m", command.module, *flags, "..." if many else "[--KEY VALUE ...]"])


def own_arguments(command: Command[Any]) -> Arguments:
    """Describe the command's own flags, of which some are switches and some may be repeated."""
    hints, documented = get_type_hints(command.flags), _documented(command.flags)
    arguments = _arguments(_settings(command.flags, ""))
    for item in fields(command.flags):
        metavar, text = documented[item.name]
        if item.default is False:
            arguments[f"--{item.name}"] = {"action": "store_true", "help": _plain(text)}
        elif get_origin(hints[item.name]) is tuple:
            arguments[f"--{item.name}"] = {"metavar": metavar, "help": f"{_plain(text)} (may be repeated)"}
    if command.positional is not None:
        arguments[command.positional] = arguments.pop(f"--{command.positional}")
    return arguments


def sections(schema: type, key: str, title: str) -> Iterator[tuple[str, list[Setting]]]:
    """Yield a title and the plain keys of the dataclass, then the same for each dataclass inside."""
    yield title, _settings(schema, key)
    for name, hint in get_type_hints(schema).items():
        if section := section_type(hint) or named_section_type(hint):
            by_name = f"{name}.NAME" if named_section_type(hint) else name
            yield from sections(section, dotted(key, by_name), _documented(schema)[name][1])


def _settings(schema: type, key: str) -> list[Setting]:
    """Describe the keys of a dataclass that are not sections."""
    hints, documented = get_type_hints(schema, include_extras=True), _documented(schema)
    return [
        Setting(
            dotted(key, item.name),
            *documented[item.name],
            type_name(hints[item.name]),
            _default(item),
            literals(hints[item.name]),
        )
        for item in fields(schema)
        if not (section_type(hints[item.name]) or named_section_type(hints[item.name]))
    ]


def _default(item: Field[Any]) -> str | None:
    if is_required(item):
        return None
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def configured_arguments(schema: type) -> Iterator[tuple[str, Arguments]]:
    """Yield a title and the arguments of each section of a configuration."""
    return _groups(schema, "", summary(schema))


def _groups(schema: type, key: str, title: str) -> Iterator[tuple[str, Arguments]]:
    return ((_plain(found), _arguments(settings)) for found, settings in sections(schema, key, title))


def _arguments(settings: Iterable[Setting]) -> Arguments:
    found = {}
    for each in settings:
        default = "required" if each.default is None else f"default: {each.default}"
        text = f"{_plain(each.meaning)} ({each.expected}; {default})"
        found[f"--{each.key}"] = {"metavar": each.metavar, "help": text, "choices": each.choices or None}
    return found


def _plain(text: str) -> str:
    """Return a docstring's text without its marks of code, for a terminal."""
    return text.replace("``", "'")


def _render(title: str, arguments: Arguments) -> str:
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group(title.rstrip("."))
    for key, settings in arguments.items():
        group.add_argument(key, **{**settings, "help": settings["help"].replace("%", "%%")})
    return parser.format_help().strip("\n") + "\n"


def _documented(schema: type) -> dict[str, tuple[str, str]]:
    """Return each field's metavar and meaning, from ``name (METAVAR): Text.`` in the docstrings.

    The docstrings are those of the dataclass and of the dataclasses that it extends.
    """
    docstrings = [docstring_parser.parse(vars(each).get("__doc__") or "") for each in schema.__mro__[::-1]]
    found = {}
    for param in (param for docstring in docstrings for param in docstring.params):
        text = " ".join((param.description or "").split())
        found[param.arg_name] = param.type_name or param.arg_name.upper(), text
    return found
