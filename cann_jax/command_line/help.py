"""The help text of a command, written from the docstrings and types of its dataclasses."""

import argparse
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, get_origin, get_type_hints

import docstring_parser

from cann_jax.command_line.commands import COMMANDS, Command
from cann_jax.config.schema import dotted, is_required, named_section_type, section_type, type_name


class Entry(NamedTuple):
    """One key in the help text.

    Args:
        metavar: Name of its value; None for a switch.
        text: What it means, what it must be, and its default.
    """

    metavar: str | None
    text: str


class Meaning(NamedTuple):
    """What a docstring says about a field, ``name (METAVAR): Text.``."""

    metavar: str
    text: str


Section = tuple[str, dict[str, Entry]]


def help_text(
    command: Command[Any], schema: type | None = None, variants: Mapping[str, type] | None = None
) -> str:
    """Return the whole help text.

    Args:
        command: The command.
        schema: Dataclass of its configuration.
        variants: Dataclasses of which one section of the configuration takes its keys, by title.
    """
    sections = [("Flags", _own_entries(command))]
    if schema is not None:
        sections += _sections(schema, "", summary(schema))
    for title, variant in (variants or {}).items():
        sections += _sections(variant, "SCORER", f"{title}: {summary(variant)}")
    description = inspect.cleandoc(command.flags.__doc__ or "").partition("\nArgs:")[0].rstrip() + "\n"
    rendered = [_render(title, entries) for title, entries in sections if entries]
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
    meanings = _meanings(command.flags)
    required = [item.name for item in fields(command.flags) if is_required(item)]
    flags = [f"--{name} {meanings[name].metavar}" for name in required if name != command.positional]
    rest = f"{meanings[command.positional].metavar} ..." if command.positional else "[--KEY VALUE ...]"
    return " ".join(["usage: python -m", command.module, *flags, rest])


def _own_entries(command: Command[Any]) -> dict[str, Entry]:
    hints, meanings = get_type_hints(command.flags, include_extras=True), _meanings(command.flags)
    own = {f.name: _own_entry(f, hints[f.name], meanings[f.name]) for f in fields(command.flags)}
    return {("" if name == command.positional else "--") + name: entry for name, entry in own.items()}


def _own_entry(item: Field[Any], hint: Any, meaning: Meaning) -> Entry:
    if item.default is False:
        return Entry(None, meaning.text)
    if get_origin(hint) is tuple:
        return Entry(meaning.metavar, f"{meaning.text} (may be repeated)")
    return _entry(item, hint, meaning)


def _sections(schema: type, key: str, title: str) -> Iterator[Section]:
    """Yield a title and the plain keys of the dataclass, then the same for each dataclass inside."""
    hints, meanings = get_type_hints(schema, include_extras=True), _meanings(schema)
    inner = {name: section_type(hint) or named_section_type(hint) for name, hint in hints.items()}
    plain = [item for item in fields(schema) if inner[item.name] is None]
    yield title, {f"--{dotted(key, f.name)}": _entry(f, hints[f.name], meanings[f.name]) for f in plain}
    for name, section in inner.items():
        if section is not None:
            by_name = f"{name}.NAME" if named_section_type(hints[name]) else name
            yield from _sections(section, dotted(key, by_name), meanings[name].text)


def _entry(item: Field[Any], hint: Any, meaning: Meaning) -> Entry:
    if is_required(item):
        return Entry(meaning.metavar, f"{meaning.text} ({type_name(hint)}; required)")
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return Entry(meaning.metavar, f"{meaning.text} ({type_name(hint)}; default: {_spelled(default)})")


def _spelled(value: Any) -> str:
    """Return the value as one writes it in a YAML file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _render(title: str, entries: Mapping[str, Entry]) -> str:
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group(title.rstrip("."))
    for key, (metavar, text) in entries.items():
        settings: dict[str, Any] = {"action": "store_true"} if metavar is None else {"metavar": metavar}
        group.add_argument(key, help=text.replace("%", "%%"), **settings)
    return parser.format_help().strip("\n") + "\n"


def _meanings(schema: type) -> dict[str, Meaning]:
    """Return what each field means, by the docstrings of the dataclass and of those that it extends."""
    docstrings = [docstring_parser.parse(vars(each).get("__doc__") or "") for each in schema.__mro__[::-1]]
    return {
        param.arg_name: Meaning(param.type_name or param.arg_name.upper(), _plain(param.description))
        for docstring in docstrings
        for param in docstring.params
    }


def _plain(text: str | None) -> str:
    return " ".join((text or "").replace("``", "'").split())
