"""Preference pairs as token ids, encoded once and stored as Parquet."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.builders.records import ABSENT
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import pad
from cann_jax.data.prepared_pairs import Pair
from cann_jax.data.prompts import TURNS, Prompt, turns_from
from cann_jax.data.responses import Responses
from cann_jax.data.templates import Template, closing_ids, prompt_ids, truncated_ids
from cann_jax.files.errors import InputError

_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.string(),
        "earlier": TURNS,
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


def encode_pairs(
    pairs: Iterable[Pair],
    tokenizer: Any,
    template: Template,
    config: PreferencesConfig,
    context: int,
    *,
    scored: bool = False,
) -> tuple[pa.Table, Mapping[str, int]]:
    """Write pairs in the template, tokenize them for a model of this context, and count what is unusual.

    If ``scored``, responses end with the ``closing_ids`` that a reward model reads, instead of the end token
    alone.

    Returns:
        One row per pair, which ``pairs_from_table`` reads, and the counts by description.

    Raises:
        InputError: The tokenizer has no end token, a pair is overlong under ``on_overlong: error``, or no
            pair is left.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end token, which responses must end with; use another model")
    closing = closing_ids(tokenizer, template) if scored else np.array([tokenizer.eos_token_id], np.int32)
    encoder = _Encoder(tokenizer, template, config, min(config.max_tokens, context), closing)
    rows = [row for pair in pairs if (row := encoder.row(pair)) is not None]
    if not rows:
        listed = ", ".join(f"{count} {what}" for what, count in encoder.counts.items() if count)
        raise InputError(
            f"preferences: no pair is left ({listed}); use other data or raise preferences.max_tokens"
        )
    return pa.Table.from_pylist(rows, schema=_SCHEMA), encoder.counts


@dataclass(frozen=True)
class _Encoder:
    tokenizer: Any
    template: Template
    config: PreferencesConfig
    longest: int
    closing: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)

    def row(self, pair: Pair) -> dict[str, Any] | None:
        """Return the stored row of a pair, or None if it is left out, and count what is unusual."""
        responses = [
            np.array([*self.tokenizer(text, add_special_tokens=False)["input_ids"], *self.closing], np.int32)
            for text in pair.responses
        ]
        if np.array_equal(responses[0], responses[1]):
            self.counts["pairs of identical responses left out"] += 1
            return None
        prompt = self._prompt_ids(pair.prompt, self.longest - max(map(len, responses)))
        if prompt is None:
            self.counts["overlong pairs dropped (preferences.on_overlong)"] += 1
            return None
        self.counts["empty responses"] += sum(not text.strip() for text in pair.responses)
        self.counts["contradictory labels (safer, yet the only one that is unsafe)"] += pair.contradictory
        return {
            "id": pair.prompt.id,
            "prompt": pair.prompt.text,
            "earlier": [asdict(turn) for turn in pair.prompt.earlier],
            "prompt_ids": prompt,
            "better": pair.better,
            "safer": pair.safer,
            **{f"response_{i}": pair.responses[i] for i in (0, 1)},
            **{f"response_ids_{i}": responses[i] for i in (0, 1)},
            **{f"safe_{i}": pair.safe[i] for i in (0, 1)},
            **{f"harms_{i}": None if pair.harms is None else list(pair.harms[i]) for i in (0, 1)},
        }

    def _prompt_ids(self, prompt: Prompt, room: int) -> np.ndarray | None:
        """Return at most ``room`` ids of the prompt, or None if they do not fit and may not be cut."""
        row = prompt_ids(prompt.text, self.tokenizer, self.template, prompt.earlier)
        if len(row) <= room:
            return row
        if self.config.on_overlong == "error":
            raise InputError(
                f"{prompt.id}: the prompt has {len(row)} tokens, its longer response leaves {max(room, 0)}; "
                "raise preferences.max_tokens, or set preferences.on_overlong to drop or truncate_prompt_left"
            )
        if self.config.on_overlong == "drop":
            return None
        cut = truncated_ids(prompt, self.tokenizer, self.template, room)
        self.counts["overlong prompts cut on the left (preferences.on_overlong)"] += cut is not None
        return cut


def pairs_from_table(table: pa.Table) -> EncodedPairs:
    """Return the pairs in a table of ``encode_pairs``."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    texts, ids, safe = (
        list(map(list, zip(columns[f"{name}_0"], columns[f"{name}_1"], strict=True)))
        for name in ("response", "response_ids", "safe")
    )
    names = zip(*(columns[name] for name in ("id", "prompt", "earlier")), strict=True)
    prompts = EncodedPrompts(
        tuple(Prompt(name, text, earlier=turns_from(turns)) for name, text, turns in names),
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
            f"the preference data have no {dimension!r} labels, which this configuration needs; "
            "use data that have them, or set preferences.chosen_is"
        )
    return chosen
