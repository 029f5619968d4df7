"""Prompts as token ids, encoded once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cann_jax.config.model import PromptsConfig
from cann_jax.data.prompts import Prompt
from cann_jax.data.templates import prompt_ids, shortened
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class EncodedPrompts:
    """The prompts that were kept, in the order of the file, with their ids, template included.

    Of one that was cut, text and turns are those that are left: what scores it reads what was answered.
    """

    prompts: tuple[Prompt, ...]
    ids: tuple[np.ndarray, ...]
    dropped: int = 0  # overlong prompts left out
    truncated: int = 0  # overlong prompts whose text was cut on the left

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, indices: Iterable[int]) -> "EncodedPrompts":
        """Return the prompts at ``indices``."""
        kept = [(self.prompts[index], self.ids[index]) for index in indices]
        return EncodedPrompts(tuple(prompt for prompt, _ in kept), tuple(ids for _, ids in kept))


def shared_prompts(first: EncodedPrompts, second: EncodedPrompts) -> list[tuple[Prompt, Prompt]]:
    """Return each prompt of ``second`` that ``first`` has too, one of equal ones, behind the one there.

    Two prompts are the same if the model sees the same ids, or if their ``content`` is equal.
    """
    by_ids = {ids.tobytes(): prompt for prompt, ids in zip(second.prompts, second.ids, strict=True)}
    by_content = {prompt.content: prompt for prompt in second.prompts}
    found: dict[str, tuple[Prompt, Prompt]] = {}
    for prompt, ids in zip(first.prompts, first.ids, strict=True):
        twin = by_content.get(prompt.content) or by_ids.get(ids.tobytes())
        if twin is not None:
            found.setdefault(twin.id, (prompt, twin))
    return list(found.values())


def encode_prompts(
    prompts: Iterable[Prompt], tokenizer: Any, config: PromptsConfig, room: int
) -> EncodedPrompts:
    """Write prompts in the template and tokenize them, treating overlong ones by ``config.on_overlong``.

    ``room`` is the longest prompt that leaves room for a response in the context.

    Raises:
        InputError: A prompt is overlong under ``error``, the template cannot be used, or no prompt is left.
    """
    longest, remedy = _longest(config, room)
    if longest < 1:
        raise InputError("sample.max_new_tokens leaves no room for a prompt in the model's context; lower it")
    kept, ids, dropped, truncated = [], [], 0, 0
    for prompt in prompts:
        row = prompt_ids(prompt, tokenizer, config)
        if len(row) > longest:
            if config.on_overlong == "drop":
                dropped += 1
                continue
            prompt = _shortened(prompt, len(row), tokenizer, config, room)
            row = prompt_ids(prompt, tokenizer, config)
            truncated += 1
        kept.append(prompt)
        ids.append(row)
    if not kept:
        raise InputError(f"all {dropped} prompts have more than {longest} tokens; {remedy}")
    return EncodedPrompts(tuple(kept), tuple(ids), dropped, truncated)


def _longest(config: PromptsConfig, room: int) -> tuple[int, str]:
    """Return the longest prompt in tokens, and what makes room for a longer one."""
    if config.max_tokens < room:
        return config.max_tokens, "raise prompts.max_tokens"
    return room, "lower sample.max_new_tokens, for the model's context holds no more"


def _shortened(prompt: Prompt, tokens: int, tokenizer: Any, config: PromptsConfig, room: int) -> Prompt:
    longest, remedy = _longest(config, room)
    if config.on_overlong == "error":
        raise InputError(
            f"prompt {prompt.id!r} has {tokens} tokens, {longest} fit; shorten it, set prompts.on_overlong "
            f"to drop or truncate_prompt_left, or {remedy}"
        )
    cut = shortened(prompt, tokenizer, lambda cut: len(prompt_ids(cut, tokenizer, config)) - longest)
    if cut is None:
        raise InputError(f"prompt {prompt.id!r}: the template alone has more than {longest} tokens; {remedy}")
    return cut
