"""Prompts and dialogues, and how they are read from JSON lines."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.files.errors import InputError, listed, named, shown
from cann_jax.files.json_lines import BadRow, is_utf8, json_object
from cann_jax.files.paths import reached

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
    """A prompt: the last user turn, and the turns before it, if there are any, as models read them."""

    id: str
    text: str
    group: str | None = None
    earlier: tuple[Turn, ...] = ()
    cut_from: "Prompt | None" = field(default=None, compare=False)  # the whole one, where this was too long

    @property
    def whole(self) -> "Prompt":
        """The prompt as it was given, which tells whether two are the same however far each was cut."""
        return self.cut_from or self

    @property
    def dialogue(self) -> tuple[Turn, ...]:
        """All turns, up to the last user turn."""
        return (*self.earlier, Turn("user", self.text))

    @property
    def content(self) -> tuple[Turn, ...]:
        """The whole dialogue but for case, spacing and marks at the end of a turn: equal for equal requests.

        Other punctuation is kept, since "3 + 4" and "3 - 4", or "C" and "C++", are different requests.
        """
        return tuple(Turn(turn.role, _plain(turn.text)) for turn in self.whole.dialogue)


def _plain(text: str) -> str:
    words = " ".join(text.casefold().split())
    return words.rstrip(END_MARKS) or words


def turns_from(row: Iterable[Mapping[str, str]]) -> tuple[Turn, ...]:
    """Return the turns in a stored row of type ``TURNS``."""
    return tuple(Turn(**turn) for turn in row)


def stored_turns(turns: Iterable[Turn]) -> list[dict[str, str]]:
    """Return turns as a row of type ``TURNS``."""
    return [asdict(turn) for turn in turns]


def stored_whole(prompt: Prompt) -> list[dict[str, str]] | None:
    """Return the dialogue of a prompt that was cut, before that, as ``stored_prompt`` takes it."""
    return None if prompt.cut_from is None else stored_turns(prompt.whole.dialogue)


def stored_prompt(
    name: str,
    text: str,
    group: str | None,
    earlier: Iterable[Mapping[str, str]],
    whole: Iterable[Mapping[str, str]] | None,
) -> Prompt:
    """Return the prompt in a stored row; ``whole`` is its dialogue before it was cut, None if it was not."""
    cut_from = None
    if whole is not None:
        *before, last = turns_from(whole)
        cut_from = Prompt(name, last.text, group, tuple(before))
    return Prompt(name, text, group, turns_from(earlier), cut_from)


def distinct_prompts(prompts: Iterable[Prompt], seed: int) -> list[Prompt]:
    """Return the whole prompt of each ``content``, in random order: any part of them is a random sample."""
    found: dict[tuple[Turn, ...], Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.content, prompt.whole)
    every = list(found.values())
    return [every[index] for index in np.random.default_rng(seed).permutation(len(every))]


def each_once(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return the first prompt of each ``content``: copies tell no more, and no interval may count them.

    Raises:
        InputError: Two of one content are in different groups.
    """
    found: dict[tuple[Turn, ...], Prompt] = {}
    for prompt in prompts:
        first = found.setdefault(prompt.content, prompt)
        if first.group != prompt.group:
            raise InputError(
                f"prompts {first.id!r} and {prompt.id!r} are one request, {prompt.text[:60]!r}, in groups "
                f"{first.group!r} and {prompt.group!r}; give it one"
            )
    return list(found.values())


def read_prompts(path: str, limit: int | None = None, group: str = "group") -> tuple[Prompt, ...]:
    """Read JSON lines, each with a ``prompt`` and optionally an ``id`` and a ``group``.

    A prompt without an id gets its line number. ``group`` is the key under which the group stands.

    Raises:
        InputError: The file is missing or empty, a line is malformed, or two lines have the same id.
    """
    # Not splitlines: JSON strings may hold the line separators of Unicode.
    lines = prompts_file(path).split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    places: dict[str, int] = {}
    prompts = []
    for number, line in numbered[:limit]:
        prompt = _parse(path, number, line, group)
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


def prompts_file(path: str) -> bytes:
    """Return the content of a file of prompts; raises InputError where there is none."""
    with reached(path, "prompts"):
        return bytes(epath.Path(path).read_bytes())


def _object(line: bytes) -> dict[str, Any]:
    try:
        return json_object(line)
    except BadRow as error:
        raise InputError(f"{error}; fix the line") from None


def _parse(path: str, number: int, line: bytes, grouped_by: str) -> Prompt:
    with named(f"{path}, line {number}"):
        row = _object(line)
        text, name, group = (row.get(key) for key in ("prompt", "id", grouped_by))
        if "prompt" not in row:
            raise InputError(f"no key 'prompt'; the keys are {listed(list(row)) or 'none'}; name one prompt")
        if not isinstance(text, str):
            raise InputError(
                f"'prompt' must be a text ({shown(text)}); earlier turns come from preference data only"
            )
        if not text.strip():
            raise InputError("the text under the key 'prompt' is empty; fill it in, or leave out the line")
        if not isinstance(name, str | int | None) or not isinstance(group, str | None):
            raise InputError(f"'id' must be a string or a number and {grouped_by!r} a string; fix the line")
        for key, value in (("prompt", text), ("id", name), (grouped_by, group)):
            if isinstance(value, str) and not is_utf8(value):
                raise InputError(f"{key!r} holds half a surrogate pair, which UTF-8 cannot; fix the line")
    return Prompt(str(number if name is None else name), text, group)
