"""Prompts and dialogues, and how they are read from JSON lines."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.files.errors import InputError

# The column type of earlier turns in Parquet.
TURNS = pa.list_(pa.struct({"role": pa.string(), "text": pa.string()}))

END_MARKS = " .?!…。？！"


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue; ``role`` is named as chat templates name it."""

    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A prompt: the last user turn, and the turns before it, if there are any."""

    id: str
    text: str
    group: str | None = None
    earlier: tuple[Turn, ...] = ()

    @property
    def dialogue(self) -> tuple[Turn, ...]:
        """All turns, up to the last user turn."""
        return (*self.earlier, Turn("user", self.text))

    @property
    def content(self) -> tuple[Turn, ...]:
        """The dialogue but for case, spacing and the marks at the end of a turn: equal for equal requests.

        Other punctuation is kept, since "3 + 4" and "3 - 4", or "C" and "C++", are different requests.
        """
        return tuple(Turn(turn.role, _plain(turn.text)) for turn in self.dialogue)


def _plain(text: str) -> str:
    words = " ".join(text.casefold().split())
    return words.rstrip(END_MARKS) or words


def turns_from(row: Iterable[Mapping[str, str]]) -> tuple[Turn, ...]:
    """Return the turns in a stored row of type ``TURNS``."""
    return tuple(Turn(**turn) for turn in row)


def distinct_prompts(prompts: Iterable[Prompt], seed: int) -> list[Prompt]:
    """Return each dialogue once, under its first id, in random order: any part of it is a random sample."""
    found: dict[tuple[Turn, ...], Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.dialogue, prompt)
    every = list(found.values())
    return [every[index] for index in np.random.default_rng(seed).permutation(len(every))]


def read_prompts(path: str, limit: int | None = None) -> tuple[Prompt, ...]:
    """Read JSON lines, each with a ``prompt`` and optionally an ``id`` and a ``group``.

    A prompt without an id gets its line number.

    Raises:
        InputError: The file is missing or empty, a line is malformed, or two lines have the same id.
    """
    numbered = [(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    places: dict[str, int] = {}
    prompts = []
    for number, line in numbered[:limit]:
        prompt = _parse(path, number, line)
        first = places.setdefault(prompt.id, number)
        if first != number:
            raise InputError(
                f"{path}, line {number}: line {first} has the same id, {prompt.id!r}; "
                "make ids unique or leave them out"
            )
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} has no prompts; give one JSON object with the key 'prompt' per line")
    return tuple(prompts)


def _lines(path: str) -> list[str]:
    try:
        # Not splitlines: JSON strings may hold the line separators of Unicode.
        lines: list[str] = epath.Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be read ({reason}); check the prompts' path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); convert the file") from None
    return lines


def _parse(path: str, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: invalid JSON ({error}); fix the line") from None
    text = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}, line {number}: no text under the key 'prompt'; add it")
    name, group = row.get("id"), row.get("group")
    if not isinstance(name, str | int | None) or not isinstance(group, str | None):
        raise InputError(
            f"{path}, line {number}: 'id' must be a string or a number and 'group' a string; fix the line"
        )
    return Prompt(str(number if name is None else name), text, group)
