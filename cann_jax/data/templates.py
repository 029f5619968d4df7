"""Write dialogues in the model's template and turn them into token ids."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jinja2 import TemplateError

from cann_jax.data.prompts import Prompt, Turn
from cann_jax.files.errors import InputError, named


class Template(Protocol):
    """How a dialogue is written as text; the fields of ``PromptsConfig`` that define it."""

    @property
    def template(self) -> str:
        """``chat``, the tokenizer's chat template, or a text with {prompt}."""

    @property
    def next_turn(self) -> str | None:
        """A text with {reply} and {prompt} for each further turn; None allows a single turn only."""

    @property
    def system(self) -> str | None:
        """The system message; None leaves the default of the chat template."""


def prompt_ids(text: str, tokenizer: Any, config: Template, earlier: Sequence[Turn] = ()) -> np.ndarray:
    """Return the ids of a prompt in the template, with one BOS if the tokenizer has one.

    ``text`` is the last user turn, and ``earlier`` are the turns before it.

    Raises:
        InputError: ``template`` is ``chat`` and the tokenizer has no chat template, or one that refuses the
            dialogue; or it is a text, and the dialogue has several turns but there is no ``next_turn``.
    """
    if config.template == "chat":
        with named("prompts"):
            return chat_ids((*earlier, Turn("user", text)), tokenizer, config.system)
    return text_ids(_written(text, config, earlier), tokenizer)


def answered_ids(prompt: Prompt, response: str, tokenizer: Any, config: Template) -> np.ndarray:
    """Return the ids of a prompt with its response in the template, as a reward model reads them.

    In a text template the response follows the prompt directly.

    Raises:
        InputError: As ``prompt_ids``.
    """
    if config.template == "chat":
        turns = (*prompt.dialogue, Turn("assistant", response))
        return chat_ids(turns, tokenizer, config.system, answers_next=False)
    return text_ids(_written(prompt.text, config, prompt.earlier) + response, tokenizer)


def closing_ids(tokenizer: Any, config: Template) -> np.ndarray:
    """Return the ids that the template writes after a response.

    A reward model's score is read at the last of them: in ChatML that is a line break, not the end token.

    Raises:
        InputError: The chat template writes nothing after a response, or writes the turn of a given response
            differently from the opening of a turn that is to be generated.
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


def text_ids(text: str, tokenizer: Any) -> np.ndarray:
    """Return the ids of a text without a template or end token, with one BOS if the tokenizer adds one."""
    ids, bos = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.bos_token_id
    # A template may have written it already.
    missing = bos is not None and bos in tokenizer("")["input_ids"] and ids[:1] != [bos]
    return np.array([bos, *ids] if missing else ids, np.int32)


def _written(text: str, config: Template, earlier: Sequence[Turn]) -> str:
    """Return the dialogue in a text template."""
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


def chat_ids(
    turns: Sequence[Turn], tokenizer: Any, system: str | None, answers_next: bool = True
) -> np.ndarray:
    """Return the ids of a dialogue in the tokenizer's chat template.

    The ``system`` None leaves the template's default; if ``answers_next``, the opening of an answer follows.

    Raises:
        InputError: There is no chat template, or it refuses the dialogue.
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


def truncated_ids(prompt: Prompt, tokenizer: Any, config: Template, longest: int) -> np.ndarray | None:
    """Return at most ``longest`` ids of a prompt cut on the left: first whole turns, then the last's text.

    The template itself is never cut; the result is None where it alone is longer.
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
    """Return the turns from the second user turn on; chat templates may refuse to begin with another role."""
    users = [index for index, turn in enumerate(turns) if turn.role == "user" and index > 0]
    return turns[users[0] :] if users else ()
