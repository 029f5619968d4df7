"""The help text, written from the dataclasses and their docstrings; jsonargparse sets it."""

import argparse
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from cann_jax.config.schema import dotted, is_required, named_section_type, section_type
from cann_jax.config.scorers import SCORER_KINDS

TRAIN, REWARD = "cann_jax.train", "cann_jax.reward"

USAGE = {
    TRAIN: "--config FILE.yaml [--KEY VALUE ...] [--stages STAGE,...] [--dry_run [--model_config FILE]]",
    REWARD: "--config FILE.yaml [--KEY VALUE ...] [--dry_run [--model_config FILE]]",
}
INTRODUCTION = """\
usage: python -m {program} {usage}

Every key below goes into the YAML file or, written as here, on the command line, which wins over the
file. Mappings are overridden by name. 'null' switches off what may be null (--align.lora null). Lists are
written [a, b].
"""
SCORERS = """\
Where the file has a constraint 'safe', --constraints.safe.margin 0.7 changes its margin and
--constraints.safe.scorer.clip 1e-4 a key of its scorer; an unused name adds a new entry.
"""


def help_text(program: str, *schemas: type) -> str:
    """Every key of the dataclasses with its meaning, type and default; for a run, each scorer kind's too."""
    sections = [section for schema in schemas for section in _sections(schema, "", _summary(schema))]
    said = [INTRODUCTION.format(program=program, usage=USAGE[program])]
    if program == TRAIN:
        said.append(SCORERS)
        for kind, schema in SCORER_KINDS.items():
            sections += _sections(schema, "SCORER", f"SCORER of 'kind: {kind}': {_summary(schema)}")
    return "\n".join([*said, *(_render(title, keys) for title, keys in sections if keys)])


def _sections(schema: type, key: str, title: str) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """A title and the plain keys of the dataclass, then the same for each dataclass inside."""
    hints, meanings = get_type_hints(schema), _meanings(schema)
    inner = {name: section_type(hint) or named_section_type(hint) for name, hint in hints.items()}
    plain = {f.name: f for f in fields(schema) if inner[f.name] is None}
    yield title, {dotted(key, n): _argument(f, hints[n], meanings[n]) for n, f in plain.items()}
    for name, schema_inside in inner.items():
        if schema_inside is not None:
            by_name = f"{name}.NAME" if named_section_type(hints[name]) else name
            yield from _sections(schema_inside, dotted(key, by_name), meanings[name])


def _argument(item: Field, hint: Any, meaning: str) -> dict[str, Any]:
    if is_required(item):
        return {"type": hint, "help": meaning, "required": True}
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return {"type": hint, "help": meaning, "default": default}


def _render(title: str, keys: dict[str, dict[str, Any]]) -> str:
    parser = ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group(title.rstrip("."))
    for key, settings in keys.items():
        group.add_argument(f"--{key}", **settings)
    return parser.format_help().strip("\n") + "\n"


def _summary(schema: type) -> str:
    return str(docstring_parser.parse(schema.__doc__ or "").short_description)


def _meanings(schema: type) -> dict[str, str]:
    params = docstring_parser.parse(schema.__doc__ or "").params
    return {param.arg_name: " ".join(str(param.description).split()).replace("%", "%%") for param in params}
