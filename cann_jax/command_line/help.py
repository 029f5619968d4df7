"""The help text of a command, written from the docstrings and types of its dataclasses."""

import argparse
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_origin, get_type_hints

import docstring_parser

from cann_jax.command_line.commands import COMMANDS, Command
from cann_jax.config.schema import dotted, is_required, named_section_type, section_type, type_name

Arguments = dict[str, dict[str, Any]]  # what argparse's add_argument takes, by key


def help_text(
    command: Command[Any], schema: type | None = None, variants: Mapping[str, type] | None = None
) -> str:
    """Return the whole help text; arguments as in ``parse_configured``."""
    sections = [("Flags", _own_arguments(command))]
    if schema is not None:
        sections += _sections(schema, "", summary(schema))
    for title, variant in (variants or {}).items():
        sections += _sections(variant, "SCORER", f"{title}: {summary(variant)}")
    description = inspect.cleandoc(command.flags.__doc__ or "").partition("\nArgs:")[0].rstrip() + "\n"
    rendered = [_render(title, arguments) for title, arguments in sections if arguments]
    return "\n".join([_usage(command), "", description, *command.notes, *rendered])


def command_list() -> str:
    """Return one line for each command, and how to learn more."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(command.flags)}" for name, command in COMMANDS.items()]
    more = "cann-jax COMMAND --help lists the flags of one."
    return "\n".join(["usage: cann-jax COMMAND ...", "", *lines, "", more])


def summary(schema: type) -> str:
    """Return the first line of a dataclass's docstring."""
    return str(docstring_parser.parse(schema.__doc__ or "").short_description)


def _usage(command: Command[Any]) -> str:
    documented = _documented(command.flags)
    required = {f.name: documented[f.name][0] for f in fields(command.flags) if is_required(f)}
    many = required.pop(command.positional or "", None)
    flags = [f"--{name} {metavar}" for name, metavar in required.items()]
    rest = f"{many} ..." if many else "[--KEY VALUE ...]"
    return " ".join(["usage: python -m", command.module, *flags, rest])


def _own_arguments(command: Command[Any]) -> Arguments:
    """Describe the command's own flags, of which some are switches and some may be repeated."""
    hints, documented = get_type_hints(command.flags), _documented(command.flags)
    arguments = _arguments(command.flags, "")
    for item in fields(command.flags):
        metavar, text = documented[item.name]
        if item.default is False:
            arguments[f"--{item.name}"] = {"action": "store_true", "help": text}
        elif get_origin(hints[item.name]) is tuple:
            arguments[f"--{item.name}"] = {"metavar": metavar, "help": f"{text} (may be repeated)"}
    if command.positional is not None:
        arguments[command.positional] = arguments.pop(f"--{command.positional}")
    return arguments


def _sections(schema: type, key: str, title: str) -> Iterator[tuple[str, Arguments]]:
    """Yield a title and the plain keys of the dataclass, then the same for each dataclass inside."""
    yield title, _arguments(schema, key)
    for name, hint in get_type_hints(schema).items():
        if section := section_type(hint) or named_section_type(hint):
            by_name = f"{name}.NAME" if named_section_type(hint) else name
            yield from _sections(section, dotted(key, by_name), _documented(schema)[name][1])


def _arguments(schema: type, key: str) -> Arguments:
    """Describe the keys of a dataclass that are not sections."""
    hints, documented = get_type_hints(schema, include_extras=True), _documented(schema)
    arguments = {}
    for item in fields(schema):
        hint, (metavar, text) = hints[item.name], documented[item.name]
        if not (section_type(hint) or named_section_type(hint)):
            text = f"{text} ({type_name(hint)}; {_default(item)})"
            arguments[f"--{dotted(key, item.name)}"] = {"metavar": metavar, "help": text}
    return arguments


def _default(item: Field[Any]) -> str:
    """Return the default of a field as one writes it in a YAML file."""
    if is_required(item):
        return "required"
    value = item.default if item.default_factory is MISSING else item.default_factory()
    if isinstance(value, tuple):
        return f"default: [{', '.join(map(str, value))}]"
    return f"default: {str(value).lower() if isinstance(value, bool) else 'null' if value is None else value}"


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
        text = " ".join((param.description or "").replace("``", "'").split())
        found[param.arg_name] = param.type_name or param.arg_name.upper(), text
    return found
