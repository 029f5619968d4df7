"""Preference pairs as token ids, encoded once and stored as Parquet."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import pad
from cann_jax.data.prepared_pairs import Pair
from cann_jax.data.prompts import TURNS, Prompt, stored_prompt, stored_turns, stored_whole
from cann_jax.data.responses import Responses
from cann_jax.data.templates import Template, bare_ids, prompt_ids, scored_end, scored_ids, shortened
from cann_jax.files.errors import InputError, shown

_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.string(),
        "earlier": TURNS,
        "whole": TURNS,  # the dialogue before it was cut; null where it was not
        "prompt_ids": _IDS,
        **{f"response_{i}": pa.string() for i in (0, 1)},
        **{f"response_ids_{i}": _IDS for i in (0, 1)},
        **{name: pa.int8() for name in ("better", "safer", "safe_0", "safe_1")},
        **{f"harms_{i}": pa.list_(pa.string()) for i in (0, 1)},
    }
)


@dataclass(frozen=True)
class EncodedPairs:
    """N pairs with their labels, each index 0 or 1, or -1 if not labelled.

    Args:
        responses: Two responses to each prompt, whose id is file and row; their log-probs are NaN.
        better: (N,) index of the more helpful response.
        safer: (N,) index of the less harmful response.
        safe: (N, 2) for each response 1 safe, 0 unsafe, -1 not labelled.
    """

    responses: Responses
    better: np.ndarray
    safer: np.ndarray
    safe: np.ndarray

    def __len__(self) -> int:
        return len(self.better)

    def take(self, rows: np.ndarray) -> "EncodedPairs":
        """Return the pairs at these indices."""
        return EncodedPairs(self.responses.take(rows), self.better[rows], self.safer[rows], self.safe[rows])


PairIds = tuple[np.ndarray, list[np.ndarray]]  # ids of the prompt, and of each response with its end


def policy_ids(tokenizer: Any, template: Template, end: int) -> Callable[[Pair, Prompt], PairIds]:
    """Return how a pair is encoded for a policy: the prompt as in sampling, and ``end`` behind each."""

    def ids(pair: Pair, prompt: Prompt) -> PairIds:
        rows = [bare_ids(text, tokenizer) for text in pair.responses]
        return prompt_ids(prompt, tokenizer, template), [np.array([*row, end], np.int32) for row in rows]

    return ids


def score_model_ids(tokenizer: Any, template: Template) -> Callable[[Pair, Prompt], PairIds]:
    """Return how a pair is encoded for a reward model: the ids that scoring feeds it, ``scored_ids``.

    What the two rows begin with is the prompt, and the rest the responses: the model sees the same wherever a
    row is divided, and reads no score but at its end.
    """
    end = scored_end(tokenizer, template)

    def ids(pair: Pair, prompt: Prompt) -> PairIds:
        rows = [scored_ids(prompt, text, tokenizer, template, end) for text in pair.responses]
        shortest = min(map(len, rows)) - 1
        shared = next((n for n in range(shortest) if rows[0][n] != rows[1][n]), shortest)
        return rows[0][:shared], [row[shared:] for row in rows]

    return ids


def encode_pairs(
    pairs: Iterable[Pair],
    tokenizer: Any,
    ids: Callable[[Pair, Prompt], PairIds],
    ends: Sequence[int],
    config: PreferencesConfig,
    context: int,
) -> tuple[pa.Table, Mapping[str, int]]:
    """Tokenize pairs for a model of this context, and count what is unusual.

    ``ids`` returns the ids of a pair behind a prompt, which is the pair's own or what is left of it.
    ``ends`` are the ids that end a response of the model; one that a text ends with is left out.

    Returns:
        One row per pair, which ``pairs_from_table`` reads, and the counts by description.

    Raises:
        InputError: A pair is overlong under ``on_overlong: error``, the template refuses one, or a
            response goes on behind an end token, under ``on_bad_row: error``, or no pair is left.
    """
    encoder = _Encoder(tokenizer, ids, ends, config, context)
    rows = [row for pair in pairs if (row := encoder.row(pair)) is not None]
    if not rows:
        listed = ", ".join(f"{count} {what}" for what, count in encoder.counts.items() if count)
        raise InputError(f"preferences: no pair is left ({listed}); use other data, or {encoder.remedy}")
    return pa.Table.from_pylist(rows, schema=_SCHEMA), encoder.counts


@dataclass(frozen=True)
class _Encoder:
    tokenizer: Any
    ids: Callable[[Pair, Prompt], PairIds]
    ends: Sequence[int]
    config: PreferencesConfig
    context: int
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def longest(self) -> int:
        """The longest pair in tokens."""
        return min(self.config.max_tokens, self.context)

    @property
    def remedy(self) -> str:
        """What makes room for a longer one."""
        raised = self.config.max_tokens < self.context
        return "raise preferences.max_tokens" if raised else "use a model with a longer context"

    def row(self, pair: Pair) -> dict[str, Any] | None:
        """Return the stored row of a pair, or None if it is left out, and count what is unusual."""
        kept, written = pair.prompt, pair.responses
        try:
            first, second = map(self._without_end, written)
            pair = replace(pair, responses=(first, second))
            prompt, responses = self.ids(pair, kept)
        except InputError as error:
            if self.config.on_bad_row == "error":
                raise InputError(f"{pair.prompt.id}: {error}") from None
            self.counts[f"bad rows left out: {error}"] += 1
            return None
        if np.array_equal(responses[0], responses[1]):
            self.counts["pairs of identical responses left out"] += 1
            return None
        if len(prompt) + max(map(len, responses)) > self.longest:
            cut = self._cut(pair, len(prompt), max(map(len, responses)))
            if cut is None:
                self.counts["overlong pairs dropped (preferences.on_overlong)"] += 1
                return None
            self.counts["overlong prompts cut on the left (preferences.on_overlong)"] += 1
            kept = cut
            prompt, responses = self.ids(pair, kept)
        if ended := sum(text != whole for text, whole in zip(pair.responses, written, strict=True)):
            self.counts["responses written with an end token, which is left out"] += ended
        self.counts["empty responses"] += sum(not text.strip() for text in pair.responses)
        return {
            "id": kept.id,
            "prompt": kept.text,
            "earlier": stored_turns(kept.earlier),
            "whole": stored_whole(kept),
            "prompt_ids": prompt,
            "better": pair.better,
            "safer": pair.safer,
            **{f"response_{i}": pair.responses[i] for i in (0, 1)},
            **{f"response_ids_{i}": responses[i] for i in (0, 1)},
            **{f"safe_{i}": pair.safe[i] for i in (0, 1)},
            **{f"harms_{i}": None if pair.harms is None else list(pair.harms[i]) for i in (0, 1)},
        }

    @cached_property
    def _end_texts(self) -> dict[int, str]:
        return {end: text for end in self.ends if (text := self.tokenizer.decode([end]))}

    @cached_property
    def _written_end(self) -> re.Pattern[str]:
        """The end tokens that close a text, with the white space behind each."""
        # Possessive: an end token may be a line break, and thirty would be matched in 2^29 ways.
        texts = "|".join(map(re.escape, self._end_texts.values())) or "(?!)"
        return re.compile(rf"(?:(?:{texts})\s*+)++\Z")

    def _without_end(self, text: str) -> str:
        """Return a response without the end token that it is written with: each gets one of its own.

        Raises:
            InputError: It goes on behind one. That would be learnt, and can never be sampled.
        """
        text = self._written_end.sub("", text)
        for end, mark in self._end_texts.items():
            if mark in text and end in bare_ids(text, self.tokenizer):
                raise InputError(
                    f"a response goes on behind the end token {shown(mark)}; end it there, or "
                    "leave it out (preferences.on_bad_row)"
                )
        return text

    def _cut(self, pair: Pair, prompt: int, response: int) -> Prompt | None:
        """Return as much of a prompt as leaves room for its responses, or None if it may not be cut."""
        if self.config.on_overlong == "error":
            raise InputError(
                f"{pair.prompt.id}: the prompt has {prompt} tokens, its longer response leaves "
                f"{max(self.longest - response, 0)} of {self.longest}; {self.remedy}, or set "
                "preferences.on_overlong to drop or truncate_prompt_left"
            )
        if self.config.on_overlong == "drop":
            return None
        return shortened(pair.prompt, self.tokenizer, partial(self._excess, pair))

    def _excess(self, pair: Pair, prompt: Prompt) -> int:
        before, responses = self.ids(pair, prompt)
        return len(before) + max(map(len, responses)) - self.longest


def pairs_from_table(table: pa.Table) -> EncodedPairs:
    """Return the pairs in a table of ``encode_pairs``."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    texts, ids, safe = (
        list(map(list, zip(columns[f"{name}_0"], columns[f"{name}_1"], strict=True)))
        for name in ("response", "response_ids", "safe")
    )
    names = ("id", "prompt", "earlier", "whole")
    stored = zip(*(columns[name] for name in names), strict=True)
    prompts = EncodedPrompts(
        tuple(stored_prompt(name, text, None, *turns) for name, text, *turns in stored),
        tuple(np.array(row, np.int32) for row in columns["prompt_ids"]),
    )
    rows, shape = [row for both in ids for row in both], (table.num_rows, 2)
    tokens, lengths = pad(rows, max(map(len, rows)))
    responses = Responses(
        prompts,
        tokens.reshape(*shape, -1),
        lengths.reshape(shape),
        stopped=np.ones(shape, bool),
        logps=np.full(shape, np.nan, np.float32),
        texts=texts,
    )
    labels = (np.array(values, np.int8) for values in (columns["better"], columns["safer"], safe))
    return EncodedPairs(responses, *labels)


def labelled(pairs: EncodedPairs, dimension: str) -> np.ndarray:
    """Return the indices (n,) of the pairs that are labelled in a dimension, ``better`` or ``safer``.

    Raises:
        InputError: No pair is.
    """
    chosen = np.flatnonzero(getattr(pairs, dimension) != ABSENT)
    if not len(chosen):
        raise InputError(
            f"the preference data have no {dimension!r} labels, which this configuration needs: no row of "
            f"response_0 and response_1 has a {dimension}_response_id; add the column, or for chosen and "
            f"rejected set preferences.chosen_is to {dimension}"
        )
    return chosen
