"""Texts that spell special tokens, for a model that reads them as data: there they are text alone.

A response that spells <|im_end|>, <|im_start|>assistant and "Yes", as a policy can do letter by letter,
showed SmolLM2 as a judge a finished dialogue with its own answer: five <|im_start|> in place of three.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from cann_jax.data.prompts import Prompt

APART = "\u200b"  # a zero-width space
COUNTED = "spell special tokens, which are read as text"


def as_text(text: str, tokenizer: Any) -> str:
    """Return a text in which each special token of a tokenizer that it spells is broken apart."""
    return _spelled(tokenizer, len(tokenizer)).sub(lambda found: found[0] + APART, text)


def prompt_as_text(prompt: Prompt, tokenizer: Any) -> Prompt:
    """Return a prompt whose turns are ``as_text``."""
    earlier = tuple(replace(turn, text=as_text(turn.text, tokenizer)) for turn in prompt.earlier)
    return replace(prompt, text=as_text(prompt.text, tokenizer), earlier=earlier)


def count_spelled(texts: Iterable[str], tokenizer: Any) -> dict[str, int]:
    """Return how many texts ``as_text`` breaks, as a scorer counts them."""
    return {COUNTED: sum(as_text(text, tokenizer) != text for text in texts)}


@lru_cache(maxsize=8)  # transformers takes 25 ms to list 6,000 added tokens, as many as Gemma 3 has
def _spelled(tokenizer: Any, size: int) -> re.Pattern[str]:
    """Return what matches the first character of each special token, of one within another too.

    ``size`` is the tokenizer's, so that a token added later counts.
    """
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    words = [re.escape(token) for token in sorted(tokens) if len(token) > 1]  # one character has no inside
    return re.compile(f"(?={'|'.join(words)})." if words else "(?!)", re.DOTALL)
