"""Shell completion of ``cann-jax``, written by shtab from the same dataclasses as the help text."""

import argparse
from typing import Any

import shtab

from cann_jax.command_line.commands import COMMANDS, COMPILE_CHECK, JUDGE, REWARD, TRAIN, Command
from cann_jax.command_line.help import configured_arguments, own_arguments, summary
from cann_jax.config.judge import JudgeConfig
from cann_jax.config.run import RunConfig
from cann_jax.config.score_model import ScoreModelConfig
from cann_jax.files.errors import InputError

# The configuration of a command that has one.
SCHEMAS: dict[str, type] = {
    TRAIN.name: RunConfig,
    COMPILE_CHECK.name: RunConfig,
    REWARD.name: ScoreModelConfig,
    JUDGE.name: JudgeConfig,
}


def completion_script(shell: str) -> str:
    """Return the script that completes commands, flags, keys and their words, and names of files.

    Keys below a name of one's own, as ``constraints.NAME.margin``, are left out.

    Raises:
        InputError: The installed shtab does not know the shell.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise InputError(f"the installed shtab does not know {shell!r}; run pip install --upgrade shtab")
    files = dict.fromkeys(("FILE", "FILE.yaml", "TABLE"), shtab.FILE)
    files |= dict.fromkeys(("FOLDER", "RUN"), shtab.DIRECTORY)
    parser = argparse.ArgumentParser("cann-jax")
    commands = parser.add_subparsers()
    for command in COMMANDS.values():
        own = commands.add_parser(command.name, help=summary(command.flags))
        for key, settings in _arguments(command).items():
            added: Any = own.add_argument(key, **{**settings, "help": settings["help"].replace("%", "%%")})
            if added.metavar in files:
                added.complete = files[added.metavar]
    return str(shtab.complete(parser, shell=shell))


def _arguments(command: Command[Any]) -> dict[str, dict[str, Any]]:
    found = own_arguments(command)
    for _, arguments in configured_arguments(SCHEMAS[command.name]) if command.name in SCHEMAS else ():
        found |= {key: settings for key, settings in arguments.items() if ".NAME" not in key}
    return found
