"""Prompts: read from JSON lines, put into the model's template, turned into ids once."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from etils import epath
from jinja2 import TemplateError

from cann_jax.config.run import PromptsConfig
from cann_jax.data.padding import bucketed
from cann_jax.files.errors import InputError, named

TURNS = pa.list_(pa.struct({"role": pa.string(), "text": pa.string()}))


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue; ``role`` as chat templates call it."""

    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """One prompt as the file gives it: the last user turn, and the turns before it where there are any."""

    id: str
    text: str
    group: str | None = None
    earlier: tuple[Turn, ...] = ()

    @property
    def dialogue(self) -> tuple[Turn, ...]:
        """All turns, whatever it is called."""
        return (*self.earlier, Turn("user", self.text))


def turns_from(row: list[dict[str, str]]) -> tuple[Turn, ...]:
    """A stored row of ``TURNS``."""
    return tuple(Turn(**turn) for turn in row)


class Template(Protocol):
    """How a dialogue becomes text; the fields of ``PromptsConfig`` that say it."""

    @property
    def template(self) -> str: ...
    @property
    def next_turn(self) -> str | None: ...
    @property
    def system(self) -> str | None: ...


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts with their ids, template included.

    Args:
        prompts: The prompts that were kept, in the file's order.
        ids: Their token ids.
        dropped: Overlong prompts left out.
        truncated: Overlong prompts whose text was cut on the left.
    """

    prompts: tuple[Prompt, ...]
    ids: tuple[np.ndarray, ...]
    dropped: int = 0
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, indices) -> "EncodedPrompts":
        """The prompts at ``indices``."""
        return EncodedPrompts(
            tuple(self.prompts[index] for index in indices), tuple(self.ids[index] for index in indices)
        )

    def arrays(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n, P), padded on the right, and lengths (n,), of the prompts at ``indices``."""
        return bucketed([self.ids[index] for index in indices])


def distinct_prompts(prompts: Iterable[Prompt], seed: int) -> list[Prompt]:
    """Each dialogue once, under its first id; in an order drawn from ``seed``, so that a part is a sample."""
    found: dict[tuple, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.dialogue, prompt)
    every = list(found.values())
    return [every[index] for index in np.random.default_rng(seed).permutation(len(every))]


def read_prompts(path: str, limit: int | None = None) -> tuple[Prompt, ...]:
    """Read JSON lines with a ``prompt``, and optionally ``id`` and ``group``, each.

    A prompt without an id is called by its line number.

    Raises:
        InputError: the file is missing or empty, a line is malformed, or an id stands twice.
    """
    try:
        # Not splitlines: JSON strings may hold the line separators of Unicode.
        lines = epath.Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); check the prompts' path"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); convert the file") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    places: dict[str, int] = {}
    prompts = []
    for number, line in numbered[:limit]:
        prompt = _parse(path, number, line)
        first = places.setdefault(prompt.id, number)
        if first != number:
            raise InputError(
                f"{path}, line {number}: the id {prompt.id!r} stands in line {first} too; "
                "make ids unique or leave them out"
            )
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} holds no prompt; give one JSON object with the key 'prompt' a line")
    return tuple(prompts)


def _parse(path: str, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: no valid JSON ({error}); mend the line") from None
    text = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}, line {number}: no text under the key 'prompt'; add it")
    name, group = row.get("id"), row.get("group")
    if not isinstance(name, str | int | None) or not isinstance(group, str | None):
        raise InputError(
            f"{path}, line {number}: 'id' must be a text or a number and 'group' a text; mend the line"
        )
    return Prompt(str(number if name is None else name), text, group)


def encode_prompts(prompts, tokenizer, config: PromptsConfig, room: int) -> EncodedPrompts:
    """Template and tokenize; what is too long follows ``config.on_overlong`` and is counted.

    Args:
        prompts: From ``read_prompts``.
        tokenizer: A transformers tokenizer.
        config: Template and limits.
        room: Longest prompt that leaves the context room for a response.

    Raises:
        InputError: an overlong prompt under ``error``, a template that cannot be used, or nothing left.
    """
    longest = min(config.max_tokens, room)
    if longest < 1:
        raise InputError("sample.max_new_tokens leaves no room for a prompt in the model's context; lower it")
    kept, ids, dropped, truncated = [], [], 0, 0
    for prompt in prompts:
        row = prompt_ids(prompt.text, tokenizer, config, prompt.earlier)
        if len(row) > longest and config.on_overlong == "error":
            raise InputError(
                f"prompt {prompt.id!r} has {len(row)} tokens, {longest} fit; shorten it, "
                "raise prompts.max_tokens, or set prompts.on_overlong to drop or truncate_prompt_left"
            )
        if len(row) > longest and config.on_overlong == "drop":
            dropped += 1
            continue
        if len(row) > longest:
            row = truncated_ids(prompt, tokenizer, config, longest)
            truncated += 1
            if row is None:
                raise InputError(
                    f"prompt {prompt.id!r}: the template alone has more than {longest} tokens; "
                    "raise prompts.max_tokens"
                )
        kept.append(prompt)
        ids.append(row)
    if not kept:
        raise InputError(f"all {dropped} prompts have more than {longest} tokens; raise prompts.max_tokens")
    return EncodedPrompts(tuple(kept), tuple(ids), dropped, truncated)


def prompt_ids(text: str, tokenizer, config: Template, earlier: Sequence[Turn] = ()) -> np.ndarray:
    """Ids of one prompt in the template, with one BOS where the tokenizer has one.

    Args:
        text: The last user turn.
        tokenizer: A transformers tokenizer.
        config: The template.
        earlier: The turns before it.

    Raises:
        InputError: ``template`` is ``chat`` and the tokenizer has no chat template, or one that refuses; or
            it is a text, and the dialogue has several turns that ``next_turn`` does not say how to write.
    """
    if config.template == "chat":
        with named("prompts"):
            return chat_ids((*earlier, Turn("user", text)), tokenizer, config.system)
    return text_ids(_written(text, config, earlier), tokenizer)


def answered_ids(prompt: Prompt, response: str, tokenizer, config: Template) -> np.ndarray:
    """Ids of a prompt with its response in the template, as a reward model reads them.

    Args:
        prompt: The prompt, with the turns before it.
        response: Its text; in a text template it follows at once.
        tokenizer: A transformers tokenizer.
        config: The template.

    Raises:
        InputError: as ``prompt_ids``.
    """
    if config.template == "chat":
        turns = (*prompt.dialogue, Turn("assistant", response))
        return chat_ids(turns, tokenizer, config.system, answers_next=False)
    return text_ids(_written(prompt.text, config, prompt.earlier) + response, tokenizer)


def closing_ids(tokenizer, config: Template) -> np.ndarray:
    """Ids behind a response where ``answered_ids`` and its end token have been written.

    A reward model's score is read at the last of them: ChatML's is a line break, not the end token.

    Args:
        tokenizer: A transformers tokenizer with an end token.
        config: The template.

    Raises:
        InputError: the chat template writes nothing there, or an answered turn otherwise than it opens one.
    """
    if config.template != "chat":
        return np.array([tokenizer.eos_token_id], np.int32)
    words = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    opening = [*prompt_ids("Hello", tokenizer, config), *words]
    whole = answered_ids(Prompt("", "Hello"), "Hello", tokenizer, config)
    if len(whole) <= len(opening) or not np.array_equal(whole[: len(opening)], opening):
        raise InputError(
            "the tokenizer's chat template does not write an answer as its opening, the answer and an end; "
            "set template to a text with {prompt}"
        )
    return whole[len(opening) :]


def text_ids(text: str, tokenizer) -> np.ndarray:
    """Ids of a text as it stands, with one BOS where the tokenizer has one."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.array(_with_one_bos(ids, tokenizer), np.int32)


def _written(text: str, config: Template, earlier: Sequence[Turn]) -> str:
    """The dialogue in a text template."""
    roles = [turn.role for turn in earlier]
    if (config.next_turn is None and earlier) or roles != ["user", "assistant"] * (len(roles) // 2):
        raise InputError(
            "a dialogue has several turns, which prompts.template cannot write; set prompts.next_turn to a "
            "text with {reply} and {prompt}, or prompts.template to chat"
        )
    users = [*(turn.text for turn in earlier[::2]), text]
    # Not str.format: the prompt and the template may hold braces of their own.
    pieces = [config.template.replace("{prompt}", users[0])]
    for reply, user in zip(earlier[1::2], users[1:], strict=True):
        before, _, after = str(config.next_turn).partition("{reply}")
        pieces.append(before + reply.text + after.replace("{prompt}", user))
    return "".join(pieces)


def _with_one_bos(ids: list[int], tokenizer) -> list[int]:
    """BOS in front where the tokenizer adds it and the template did not; no end token that it might add."""
    bos = tokenizer.bos_token_id
    adds = bos is not None and bos in tokenizer("")["input_ids"]
    return [bos, *ids] if adds and ids[:1] != [bos] else ids


def chat_ids(turns: Sequence[Turn], tokenizer, system: str | None, answers_next: bool = True) -> np.ndarray:
    """Ids of a dialogue in the tokenizer's chat template.

    Args:
        turns: The dialogue.
        tokenizer: A transformers tokenizer.
        system: System message; None leaves the template's default.
        answers_next: The template's opening of an answer follows.

    Raises:
        InputError: there is no chat template, or one that refuses the dialogue.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "template is 'chat' and the tokenizer has no chat template; give a text with {prompt}"
        )
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=answers_next, return_dict=False)
    except TemplateError as error:
        raise InputError(
            f"the tokenizer's chat template refuses the dialogue ({error}); change or leave out 'system'"
        ) from None
    return np.array(ids, np.int32)


def truncated_ids(prompt: Prompt, tokenizer, config: Template, longest: int) -> np.ndarray | None:
    """Ids of a prompt cut on the left: first whole turns, then the text of the last; the template stays.

    Returns:
        At most ``longest`` ids, or None where the template alone has more.
    """
    earlier = prompt.earlier
    while earlier:
        earlier = _from_next_user_turn(earlier)
        row = prompt_ids(prompt.text, tokenizer, config, earlier)
        if len(row) <= longest:
            return row
    words, cut = tokenizer(prompt.text, add_special_tokens=False)["input_ids"], 0
    while cut < len(words):
        row = prompt_ids(tokenizer.decode(words[cut:]), tokenizer, config)
        if len(row) <= longest:
            return row
        cut += len(row) - longest
    return None


def _from_next_user_turn(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The turns from the second user turn on: chat templates may refuse another role in front."""
    users = [index for index, turn in enumerate(turns) if turn.role == "user" and index > 0]
    return turns[users[0] :] if users else ()
