"""Write dialogues in the model's template and turn them into token ids."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cann_jax.config.ranges import TEMPLATE_DATE
from cann_jax.data.chat_templates import render
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.spelled import as_text, prompt_as_text
from cann_jax.files.errors import InputError, named, shown

BEHIND = 256  # characters of a template behind an answer in which its end is looked for; Llama 3's has 10


class Chat(Protocol):
    """What a chat template is told beside the dialogue."""

    @property
    def system(self) -> str | None:
        """The system message; None leaves the default of the chat template."""

    @property
    def date(self) -> str:
        """The day that a chat template takes for today, as ``2025-01-31``."""


class Template(Chat, Protocol):
    """How a dialogue is written as text; the fields of ``PromptsConfig`` that define it."""

    @property
    def template(self) -> str:
        """``chat``, the tokenizer's chat template, or a text with {prompt}."""

    @property
    def next_turn(self) -> str | None:
        """A text with {reply} and {prompt} for each further turn; None allows a single turn only."""


def prompt_ids(prompt: Prompt, tokenizer: Any, config: Template) -> np.ndarray:
    """Return the ids of a prompt in the template, with one BOS if the tokenizer has one.

    Raises:
        InputError: ``template`` is ``chat`` and the tokenizer has no chat template, or one that refuses the
            dialogue; or it is a text, and the dialogue has several turns but there is no ``next_turn``.
    """
    if config.template == "chat":
        with named("prompts"):
            return chat_ids(prompt.dialogue, tokenizer, config)
    return text_ids(_written(prompt, config), tokenizer)


def scored_ids(
    prompt: Prompt, response: str, tokenizer: Any, config: Template, end: Sequence[int]
) -> np.ndarray:
    """Return the ids that a reward model reads, in training and in scoring: prompt, response, ``end``.

    They are tokenized as one text, as Safe-RLHF's models and classifiers are trained: ids of the two put
    together are others where a token would span the border. In a text template the response follows directly.
    Special tokens that prompt or response spell are read as text.

    Raises:
        InputError: As ``prompt_ids``.
    """
    prompt, response = prompt_as_text(prompt, tokenizer), as_text(response, tokenizer)
    if config.template == "chat":
        turns = (*prompt.dialogue, Turn("assistant", response))
        ids = chat_ids(turns, tokenizer, config, answers_next=False)
    else:
        ids = text_ids(_written(prompt, config) + response, tokenizer)
    return np.array([*ids, *end], np.int32)


def scored_end(tokenizer: Any, config: Template, end: str = "auto") -> tuple[int, ...]:
    """Return the ids behind what a reward model reads: a token by its text, or none.

    ``auto`` is the tokenizer's end token behind a text and none behind a chat template, which ends itself.

    Raises:
        InputError: The tokenizer has no such token.
    """
    if end == "none" or (end == "auto" and config.template == "chat"):
        return ()
    token = tokenizer.eos_token if end == "auto" else end
    if token not in tokenizer.get_vocab():
        raise InputError(f"end is {end}, and the tokenizer has no token {token!r}; name one, or 'none'")
    return (tokenizer.convert_tokens_to_ids(token),)


@dataclass(frozen=True)
class _Plain:
    system: str | None = None
    date: str = TEMPLATE_DATE


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the special token that the chat template writes behind an answer; None where there is none.

    It is not always the tokenizer's end token: Gemma writes <end_of_turn>, and Phi-3 <|end|>.

    Raises:
        InputError: There is no chat template, or it refuses a question with its answer.
    """
    answer = "Hello"
    turns = (Turn("user", answer), Turn("assistant", answer))
    text = _rendered(turns, tokenizer, _Plain(), answers_next=False)
    return _first_special(text.rpartition(answer)[2][:BEHIND], tokenizer.added_tokens_decoder)


def _first_special(text: str, added: Mapping[int, Any]) -> int | None:
    """Return the first special token in a text, where the longest added token is the one that is read.

    As the tokenizer does before its other steps, which are not taken: a template may write 262,144 characters
    here, and an expression of tokenizer.json may take 0.07 s for each word of 20 letters.
    """
    found = {token.content: index for index, token in added.items() if token.content in text}
    at = 0
    while at < len(text):
        content = max((each for each in found if each and text.startswith(each, at)), key=len, default=None)
        if content is not None and added[found[content]].special:
            return found[content]
        at += len(content or " ")
    return None


def bare_ids(text: str, tokenizer: Any) -> list[int]:
    """Return the ids of a text alone, without BOS, template or end token.

    Raises:
        InputError: The tokenizer fails on it. Its library then raises a BaseException, PanicException, as for
            an expression of tokenizer.json that gives up on a text.
    """
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ != "PanicException":
            raise
        raise InputError(f"the tokenizer fails on {shown(text)} ({error}); use another model") from None
    return ids


def text_ids(text: str, tokenizer: Any) -> np.ndarray:
    """Return the ids of a text without a template or end token, with one BOS if the tokenizer adds one."""
    ids, bos = bare_ids(text, tokenizer), tokenizer.bos_token_id
    # A template may have written it already.
    missing = bos is not None and bos in tokenizer("")["input_ids"] and ids[:1] != [bos]
    return np.array([bos, *ids] if missing else ids, np.int32)


def _written(prompt: Prompt, config: Template) -> str:
    """Return the dialogue in a text template."""
    roles = [turn.role for turn in prompt.earlier]
    if (config.next_turn is None and roles) or roles != ["user", "assistant"] * (len(roles) // 2):
        raise InputError(
            "a dialogue has several turns, which prompts.template cannot write; set prompts.next_turn to a "
            "text with {reply} and {prompt}, or prompts.template to chat"
        )
    users = [turn.text for turn in prompt.dialogue[::2]]
    # Not str.format: the prompt and the template may hold braces of their own.
    pieces = [config.template.replace("{prompt}", users[0])]
    for reply, user in zip(prompt.earlier[1::2], users[1:], strict=True):
        before, _, after = str(config.next_turn).partition("{reply}")
        pieces.append(before + reply.text + after.replace("{prompt}", user))
    return "".join(pieces)


def chat_ids(turns: Sequence[Turn], tokenizer: Any, config: Chat, answers_next: bool = True) -> np.ndarray:
    """Return the ids of a dialogue in the tokenizer's chat template.

    If ``answers_next``, the opening of an answer follows.

    Raises:
        InputError: There is no chat template, it refuses the dialogue, or it leaves out what the system
            message or the user's last turn says.
    """
    text = _rendered(turns, tokenizer, config, answers_next)
    return np.array(bare_ids(text, tokenizer), np.int32)


def _rendered(turns: Sequence[Turn], tokenizer: Any, config: Chat, answers_next: bool) -> str:
    if not tokenizer.chat_template:
        raise InputError(
            "template is 'chat' and the tokenizer has no chat template; give a text with {prompt}"
        )
    every = turns if config.system is None else (Turn("system", config.system), *turns)
    messages = [{"role": turn.role, "content": turn.text} for turn in every]
    values = {**tokenizer.special_tokens_map, "add_generation_prompt": answers_next}
    try:
        text = render(tokenizer.get_chat_template(), messages, values, config.date)
    except ValueError as refusal:  # transformers' own: several templates, and none is the default
        reason = " ".join(str(refusal).split())
        raise InputError(
            f"the tokenizer's chat template refuses the dialogue ({reason}); change or leave out 'system'"
        ) from None
    last_of_user = [turn for turn in every if turn.role == "user"][-1:]
    for turn in (*(turn for turn in every if turn.role == "system"), *last_of_user):
        # Spacing aside, since templates strip texts.
        if "".join(turn.text.split()) not in "".join(text.split()):
            raise InputError(
                f"the tokenizer's chat template leaves out the {turn.role} message; give a text with "
                "{prompt}, or use the chat template that belongs to the model"
            )
    return text


def shortened(prompt: Prompt, tokenizer: Any, excess: Callable[[Prompt], int]) -> Prompt | None:
    """Return a prompt cut on the left until it has no ``excess`` of tokens: first whole turns, then text.

    The template itself is never cut; the result is None where it alone is too long.
    """
    prompt = replace(prompt, cut_from=prompt.whole)
    while prompt.earlier:
        prompt = replace(prompt, earlier=_from_next_user_turn(prompt.earlier))
        if excess(prompt) <= 0:
            return prompt
    words, cut = bare_ids(prompt.text, tokenizer), 0
    while cut < len(words):
        rest = replace(prompt, text=tokenizer.decode(words[cut:]))
        over = excess(rest)
        if over <= 0:
            return rest
        cut += over
    return None


def _from_next_user_turn(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns from the second user turn on; chat templates may refuse to begin with another role."""
    users = [index for index, turn in enumerate(turns) if turn.role == "user" and index > 0]
    return turns[users[0] :] if users else ()
