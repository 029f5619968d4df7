"""The chat on a terminal or in a pipe: reading prompts, printing answers."""

import contextlib
from codecs import BOM_UTF8  # with which Windows begins a file
from collections.abc import Callable, Iterable

from rich.console import Console

from cann_jax.data.prompts import Prompt
from cann_jax.files.console import console, printable
from cann_jax.files.errors import InputError, hint, named
from cann_jax.files.json_lines import is_utf8
from cann_jax.reporting.chat.conversation import Conversation
from cann_jax.reporting.chat.panels import print_answers
from cann_jax.reporting.chat.policies import Policies
from cann_jax.run.outputs import POLICIES

COMMANDS = {
    "/again": "answers the last prompt once more, by the next seed",
    "/reset": "forgets the conversation, and goes back to the first seed",
    "/help": "shows this",
    "/quit": "ends",
}

# Shown on a terminal alone, while it is so: a new length of prompts takes half a minute on two cores.
ANSWERING = "answering; new lengths of prompts are compiled first"


def answer_one(policies: Policies, text: str, seed: int) -> None:
    """Answer one prompt.

    Raises:
        InputError: It is empty or not UTF-8, or as ``Policies.answers``.
    """
    _check(text)
    _print_settings(policies, seed)
    print_answers(console(), policies.answers(dict.fromkeys(POLICIES, Prompt("chat", text)), seed))


def answer_lines(policies: Policies, lines: Iterable[bytes], seed: int) -> None:
    """Answer prompts, one a line, each on its own; empty lines are left out.

    Raises:
        InputError: There is none; or as ``answer_one``, with the line's number.
    """
    out, count = console(), 0
    _print_settings(policies, seed)
    for number, line in enumerate(lines, 1):
        if number == 1:  # a model would read the mark as a character of the first prompt
            line = line.removeprefix(BOM_UTF8)
        if not line.strip():
            continue
        with named(f"standard input, line {number}"):
            text = line.decode("utf-8", "surrogateescape").strip()
            _check(text)
            answers = policies.answers(dict.fromkeys(POLICIES, Prompt("chat", text)), seed)
        out.print(f"\n> {printable(text)}", soft_wrap=True)
        print_answers(out, answers)
        count += 1
    if not count:
        raise InputError("standard input holds no prompt; write one a line, or give --prompt")


def converse(policies: Policies, seed: int, read: Callable[[str], str] = input) -> None:
    """Answer prompts as a person types them, until ``/quit`` or the end of input.

    What is wrong with a prompt is printed, and the conversation goes on without it.
    """
    with contextlib.suppress(ImportError):  # not on every platform
        import readline  # noqa: F401 - input() then has a history and can be edited
    out, conversation = console(), Conversation(policies, seed)
    _print_settings(policies, seed)
    alone = "" if policies.converses else " Each prompt stands alone: prompts.next_turn is not set."
    print(f"Write a prompt; {', '.join(COMMANDS)}.{alone}", flush=True)
    while True:
        try:
            text = read("\n> ").strip()
        except EOFError:
            return print()
        except UnicodeDecodeError:
            text = "\udc80"
        if text == "/quit":
            return
        try:
            _turn(out, conversation, text)
        except InputError as error:
            print(f"error: {error}", flush=True)


def _turn(out: Console, conversation: Conversation, text: str) -> None:
    """Do what one line asks for."""
    if text == "/help":
        print("\n".join(f"{name}  {meaning}" for name, meaning in COMMANDS.items()))
    elif text == "/reset":
        conversation.reset()
        print("the conversation begins anew")
    elif text == "/again":
        with out.status(ANSWERING):
            answers = conversation.again()
        if answers is None:
            raise InputError("there is no prompt to answer again; write one")
        print(f"seed {conversation.seed_of_draw}")
        print_answers(out, answers)
    elif text.startswith("/") and " " not in text:
        raise InputError(f"{text} is no command; {hint(text, COMMANDS, 'commands')}")
    elif text:
        _check(text)
        with out.status(ANSWERING):
            answers = conversation.ask(text)
        print_answers(out, answers)


def _check(text: str) -> None:
    if not is_utf8(text):
        raise InputError("the prompt is not UTF-8; write it in UTF-8")
    if not text.strip():
        raise InputError("the prompt is empty; write one")


def _print_settings(policies: Policies, seed: int) -> None:
    """Print by which settings answers are drawn, and what cannot be scored."""
    sample, scale = policies.run.config.sample, policies.scale
    print(
        f"{policies.run.config.name}: temperature {sample.temperature:g}, at most {sample.max_new_tokens} "
        f"tokens, seed {seed}; the trained step at scale {scale:.3f}",
        flush=True,
    )
    for name in policies.not_scored:
        print(f"{name}: not scored: its scores are a table of the training samples", flush=True)
