"""Preference pairs as ids: made once, stored as Parquet, never tokenized again."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

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
    """N pairs with their ids and labels.

    Args:
        prompts: N prompts, with the turns before the last; their ids are file and row.
        prompt_ids: N rows, template included.
        texts: N pairs of response texts.
        response_ids: N pairs of rows, each with its end token.
        better: (N,) index of the more helpful response, or -1.
        safer: (N,) index of the less harmful response, or -1.
        safe: (N, 2) 1, 0 or -1 for each response.
    """

    prompts: list[Prompt]
    prompt_ids: list[np.ndarray]
    texts: list[list[str]]
    response_ids: list[list[np.ndarray]]
    better: np.ndarray
    safer: np.ndarray
    safe: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: np.ndarray) -> "EncodedPairs":
        """The pairs at these indices."""
        lists = {
            name: [getattr(self, name)[row] for row in rows]
            for name in ("prompts", "prompt_ids", "texts", "response_ids")
        }
        return EncodedPairs(**lists, better=self.better[rows], safer=self.safer[rows], safe=self.safe[rows])

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of the prompt with both responses."""
        pairs = zip(self.prompt_ids, self.response_ids, strict=True)
        return np.array([len(prompt) + sum(map(len, both)) for prompt, both in pairs], np.int64)

    def responses(self) -> Responses:
        """The pairs as two responses to each prompt, as scorers take them; their log-probs are NaN."""
        width = max(len(row) for both in self.response_ids for row in both)
        rows = [row for both in self.response_ids for row in both]
        tokens, lengths = pad(rows, width)
        shape = (len(self), 2)
        return Responses(
            prompts=EncodedPrompts(tuple(self.prompts), tuple(self.prompt_ids)),
            tokens=tokens.reshape(*shape, width),
            lengths=lengths.reshape(shape),
            stopped=np.ones(shape, bool),
            logps=np.full(shape, np.nan, np.float32),
            texts=self.texts,
        )


def encode_pairs(
    pairs: Iterable[Pair],
    tokenizer,
    template: Template,
    config: PreferencesConfig,
    context: int,
    *,
    scored=False,
) -> tuple[pa.Table, Mapping[str, int]]:
    """Put pairs into the template and tokenize them; what is unusual is counted by what it is.

    Args:
        pairs: From ``prepare_pairs``.
        tokenizer: A transformers tokenizer with an end token.
        template: How dialogues are written.
        config: Limits.
        context: Longest sequence of the model.
        scored: Responses end as a reward model is fed them, not with the end token alone.

    Returns:
        One row a pair (read back by ``pairs_from_table``), and counts.

    Raises:
        InputError: no end token, a pair too long under ``on_overlong: error``, or nothing left.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end token, which a response must end with; use another model")
    counts: Counter[str] = Counter()
    closing = closing_ids(tokenizer, template) if scored else [tokenizer.eos_token_id]
    longest = min(config.max_tokens, context)
    found = [
        _row(
            pair,
            [response_ids(text, tokenizer, closing) for text in pair.responses],
            tokenizer,
            template,
            config,
            longest,
            counts,
        )
        for pair in pairs
    ]
    kept = [row for row in found if row is not None]
    if not kept:
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        raise InputError(
            f"preferences: no pair is left ({said}); use other data or raise preferences.max_tokens"
        )
    return pa.Table.from_pylist(kept, schema=_SCHEMA), counts


def _row(
    pair: Pair,
    responses: list[np.ndarray],
    tokenizer,
    template: Template,
    config: PreferencesConfig,
    longest: int,
    counts: Counter,
):
    """The stored row of a pair, or None where it is left out; both are counted."""
    if np.array_equal(responses[0], responses[1]):
        counts["pairs of identical responses left out"] += 1
        return None
    prompt = _prompt_ids(pair, tokenizer, template, config, longest - max(map(len, responses)), counts)
    if prompt is None:
        counts["overlong pairs dropped (preferences.on_overlong)"] += 1
        return None
    counts["empty responses"] += sum(not text.strip() for text in pair.responses)
    counts["contradictory labels (safer, yet the only one that is unsafe)"] += pair.contradictory
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


def response_ids(text: str, tokenizer, closing: Sequence[int] | np.ndarray) -> np.ndarray:
    """Ids of a response and what stands behind it, and no BOS."""
    return np.array([*tokenizer(text, add_special_tokens=False)["input_ids"], *closing], np.int32)


def _prompt_ids(
    pair: Pair, tokenizer, template: Template, config: PreferencesConfig, room: int, counts: Counter
):
    """The prompt's ids within ``room``; None where they do not fit and may not be cut."""
    row = prompt_ids(pair.prompt.text, tokenizer, template, pair.prompt.earlier)
    if len(row) <= room:
        return row
    if config.on_overlong == "error":
        raise InputError(
            f"{pair.prompt.id}: the prompt has {len(row)} tokens, its longer response leaves {max(room, 0)}; "
            "raise preferences.max_tokens, or set preferences.on_overlong to drop or truncate_prompt_left"
        )
    cut = truncated_ids(pair.prompt, tokenizer, template, room) if config.on_overlong != "drop" else None
    counts["overlong prompts cut on the left (preferences.on_overlong)"] += cut is not None
    return cut


def pairs_from_table(table: pa.Table) -> EncodedPairs:
    """What ``encode_pairs`` made, as arrays."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    both = {
        name: list(map(list, zip(columns[f"{name}_0"], columns[f"{name}_1"], strict=True)))
        for name in ("response", "response_ids", "safe")
    }
    return EncodedPairs(
        prompts=[
            Prompt(name, text, earlier=turns_from(turns))
            for name, text, turns in zip(*(columns[n] for n in ("id", "prompt", "earlier")), strict=True)
        ],
        prompt_ids=[np.array(row, np.int32) for row in columns["prompt_ids"]],
        texts=both["response"],
        response_ids=[[np.array(row, np.int32) for row in rows] for rows in both["response_ids"]],
        better=np.array(columns["better"], np.int8),
        safer=np.array(columns["safer"], np.int8),
        safe=np.array(both["safe"], np.int8),
    )


def labelled(pairs: EncodedPairs, dimension: str) -> np.ndarray:
    """(n,) indices of the pairs that have a label of this dimension.

    Raises:
        InputError: none has.
    """
    chosen = np.flatnonzero(getattr(pairs, dimension) != ABSENT)
    if not len(chosen):
        raise InputError(
            f"the preference data have no {dimension!r} labels, which this configuration needs; "
            "use data that have them, or set preferences.chosen_is"
        )
    return chosen
