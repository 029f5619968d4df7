"""Render docs/reference/settings.md from the dataclasses that commands parse by, as ``--help`` is rendered;
``python -m tests.docs.settings_page`` rewrites it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cann_jax.command_line.commands import COMMANDS, Command
from cann_jax.command_line.help import Setting, own_arguments, sections, summary
from cann_jax.config.judge import JudgeConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.config.scorers import KINDS, scorer_kind
from tests.docs.markdown import code, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
COMMAND = "python -m tests.docs.settings_page"
INTRODUCTION = f"""\
# Settings

Every key of a configuration and every flag of a command. The page is generated from the dataclasses in
[cann_jax/config](../architecture.md#the-rooms) by `{COMMAND}`; a test fails when the two differ.

A key stands in the YAML file or on the command line, which wins: `--dual.beta 0.5`. `NAME` is a name of your
choice. `null` switches off what may be null; a list is written `[a, b]`. Numbers are those of YAML 1.2: `010`
is 10, and `1:30` is none. An unknown key, one that is given twice, or a value that is not what the third
column says, is an error of one line (exit status 2)."""


def settings_page() -> str:
    """Return the text of docs/reference/settings.md."""
    parts = [INTRODUCTION, "## `cann_jax.train`", "`cann_jax.compile_check` reads the same settings."]
    parts += _sections(RunConfig)
    parts += ["## Scorers", "`SCORER` is `reward.scorer`, `constraints.NAME.scorer` or `evaluate.also.NAME`."]
    for kind in KINDS:
        parts += _scorer(kind)
    parts += ["## `cann_jax.reward`", *_sections(ScoreModelConfig)]
    parts += ["## `cann_jax.judge`", *_sections(JudgeConfig)]
    parts += ["## Flags", "What a command takes beside the keys of a configuration."]
    for command in COMMANDS.values():
        parts += _flags(command)
    return "\n\n".join(parts).replace("``", "`") + "\n"  # docstrings mark code as reStructuredText does


def _sections(schema: type) -> Iterator[str]:
    for title, settings in sections(schema, "", summary(schema)):
        section = settings[0].key.rpartition(".")[0] if settings else ""
        if section:
            yield f"### {code(section)}"
            yield title
        elif settings:
            yield f"### {title.rstrip('.')}"
        if settings:
            yield _table(settings)


def _scorer(kind: str) -> Iterator[str]:
    yield f"### `kind: {kind}`"
    for title, settings in sections(scorer_kind(kind), "SCORER", summary(scorer_kind(kind))):
        yield title
        yield _table(settings)


def _table(settings: list[Setting]) -> str:
    defaults = ("required" if each.default is None else code(each.default) for each in settings)
    rows = (
        (code(each.key), default, each.expected, each.meaning)
        for each, default in zip(settings, defaults, strict=True)
    )
    return table(("key", "default", "must be", "meaning"), rows)


def _flags(command: Command[Any]) -> Iterator[str]:
    yield f"### `cann-jax {command.name}`"
    yield summary(command.flags)
    rows = (
        (code(f"{flag} {taken['metavar']}" if "metavar" in taken else flag), taken["help"])
        for flag, taken in own_arguments(command).items()
    )
    yield table(("flag", "meaning"), rows)


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
