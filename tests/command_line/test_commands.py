"""The commands together: their list, their flags, and flags without a configuration."""

import subprocess
import sys
from dataclasses import fields
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

import cann_jax
from cann_jax import __main__ as program
from cann_jax.command_line.commands import CHAT, COMMANDS, DUAL, REPORT
from cann_jax.command_line.help import command_list, help_text
from cann_jax.command_line.parser import parse_flags
from cann_jax.files.errors import InputError


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cann-jax", *arguments])
    return program.main()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_without_a_command_the_commands_are_listed(monkeypatch, capsys, arguments):
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("train", "dual", "reward", "report", "export", "chat", "judge", "compile-check"):
        assert [line for line in lines if line.startswith(f"  {name} ")], name


def test_an_unknown_command_names_the_nearest(monkeypatch, capsys):
    assert run(monkeypatch, "compile_check", "--help") == 2
    assert capsys.readouterr().err == (
        "error: 'compile_check' is not a command; did you mean compile-check?\n"
    )


def test_a_command_like_no_other_is_answered_by_their_list(monkeypatch, capsys):
    """An arbitrary guess was made: --version was taken for train."""
    assert run(monkeypatch, "frobnicate") == 2
    said = capsys.readouterr().err
    assert "'frobnicate' is not a command; the commands are train, dual" in said and "mean" not in said


def test_the_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"cann-jax {cann_jax.__version__}\n"


def test_a_command_by_name_is_its_module(monkeypatch, capsys, tmp_path):
    missing = ["--scores", str(tmp_path / "none.csv"), "--margin", "1"]
    assert run(monkeypatch, "dual", *missing) == 2
    by_name = capsys.readouterr().err
    command = [sys.executable, "-m", "cann_jax.dual", *missing]
    by_module = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (by_module.returncode, by_module.stderr) == (2, by_name)
    assert by_name.startswith("error: ") and by_name.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_explains_every_flag(command):
    text = help_text(command)
    assert text.startswith(f"usage: python -m {command.module} ")
    for item in fields(command.flags):
        if item.name != command.positional:
            assert f"  --{item.name}" in text
    assert command.flags.__doc__.splitlines()[0] in " ".join(text.split())
    assert command.flags.__doc__.splitlines()[0] in command_list()


def test_values_switches_and_repeated_flags():
    flags = parse_flags(["--margin", "safe=1", "--stream", "--margin=polite@all=-2", "--beta", "2e-1"], DUAL)
    assert flags.margin == ("safe=1", "polite@all=-2")
    assert (flags.stream, flags.beta, flags.out) == (True, 0.2, None)
    assert parse_flags(["a", "b=c"], REPORT).runs == ("a", "b=c")


@pytest.mark.parametrize(
    "argv, problem",
    [
        (["--bet", "1"], "--bet is not an option; did you mean --beta?"),
        (["--hlep"], "--hlep is not an option; did you mean --help?"),
        (["--frob", "1"], "--frob is not an option; --help lists them"),
        (["--BETA", "1"], "did you mean --beta?"),
        (["--beta"], "--beta needs a value"),
        (["--margin", "--stream"], "--margin needs a value"),
        (["--beta", "1", "--beta", "2"], "--beta is given twice"),
        (["--beta", "much"], "--beta is 'much'; it must be"),
        (["left"], "unexpected 'left'"),
        (["--", "left"], "unexpected '--'"),
        (["--stream", "maybe"], "--stream is 'maybe'; it must be true or false"),
    ],
)
def test_mistakes(argv, problem):
    with pytest.raises(InputError) as caught:
        parse_flags(argv, DUAL)
    assert str(caught.value).startswith("command line: ") and problem in str(caught.value)


def test_a_missing_argument_is_named():
    with pytest.raises(InputError, match=r"an argument is missing; see python -m cann_jax\.report --help"):
        parse_flags([], REPORT)


def test_one_argument_is_one():
    with pytest.raises(InputError, match="command line: 'b' is one argument too many; give one"):
        parse_flags(["a", "b"], CHAT)
    assert help_text(CHAT).startswith("usage: python -m cann_jax.chat RUN [--KEY VALUE ...]\n")
    assert help_text(REPORT).startswith("usage: python -m cann_jax.report RUN ...\n")


OUTSIDE = {"gt": 0, "ge": -1, "lt": 0, "le": 1}  # what to add to a bound to be just outside of it


def outside():
    """Every bound of every flag, with a value outside of it."""
    for command in COMMANDS.values():
        for name, hint in get_type_hints(command.flags, include_extras=True).items():
            if get_origin(hint) is Annotated:
                for bounds in get_args(hint)[1:]:
                    for kind, step in OUTSIDE.items():
                        if (bound := getattr(bounds, kind, None)) is not None:
                            yield command, name, bound + step


def test_every_number_is_refused_outside_its_range():
    tried = set()
    for command, name, value in outside():
        with pytest.raises(InputError, match=rf"--{name} is "):
            parse_flags([f"--{name}={value}"], command)
        tried.add(name)
    numbers = {
        name
        for command in COMMANDS.values()
        for name, hint in get_type_hints(command.flags).items()
        if hint in (int, float)
    }
    assert tried == numbers
