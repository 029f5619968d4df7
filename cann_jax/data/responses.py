"""Responses to a set of prompts, as arrays in memory and as Parquet on disk, one row per response."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import pad
from cann_jax.data.prompts import TURNS, stored_prompt, stored_turns, stored_whole

_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "group": pa.string(),
        "prompt": pa.string(),
        "earlier": TURNS,
        "whole": TURNS,  # the dialogue before it was cut; null where it was not
        "prompt_ids": pa.list_(pa.int32()),
        "response": pa.int32(),
        "text": pa.string(),
        "response_ids": pa.list_(pa.int32()),
        "stopped": pa.bool_(),
        "logp": pa.float32(),
    }
)


@dataclass(frozen=True)
class Responses:
    """K responses to each of N prompts. The ids are stored, and nothing is tokenized again.

    Args:
        prompts: The N prompts.
        tokens: (N, K, T) ids, padded on the right.
        lengths: (N, K) token counts, end token included.
        stopped: (N, K) True where the response ended with an end token, False where it was cut off.
        logps: (N, K) float32 log-prob under the policy that sampled it, nats.
        texts: N lists of K texts, end token left out.
    """

    prompts: EncodedPrompts
    tokens: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray
    logps: np.ndarray
    texts: list[list[str]]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        prompts, responses = self.lengths.shape
        return prompts, responses

    @cached_property
    def total_tokens(self) -> np.ndarray:
        """Tokens (N,) of each prompt with all its responses."""
        return np.asarray(self.lengths.sum(1) + [len(ids) for ids in self.prompts.ids])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Responses":
        """Return the prompts at these indices, with their responses."""
        names, index = ("tokens", "lengths", "stopped", "logps"), np.asarray(rows)
        arrays = {name: getattr(self, name)[index] for name in names}
        return Responses(self.prompts.take(rows), texts=[self.texts[row] for row in rows], **arrays)

    def of_columns(self, columns: np.ndarray) -> "Responses":
        """Return, of each prompt, the responses at these indices (N, R)."""
        names, rows = ("tokens", "lengths", "stopped", "logps"), np.arange(len(columns))[:, None]
        arrays = {name: getattr(self, name)[rows, columns] for name in names}
        texts = [[row[k] for k in chosen] for row, chosen in zip(self.texts, columns, strict=True)]
        return Responses(self.prompts, texts=texts, **arrays)

    def prompt_texts(self) -> list[str]:
        """Return the prompt of each response, in row order."""
        return [prompt.text for prompt in self.prompts.prompts for _ in range(self.shape[1])]

    def groups(self) -> list[str | None]:
        """Return the group of each prompt."""
        return [prompt.group for prompt in self.prompts.prompts]

    def flat_texts(self) -> list[str]:
        """Return the responses in row order."""
        return [text for row in self.texts for text in row]


def responses_table(prompts: EncodedPrompts, start: int, samples: Any, tokenizer: Any) -> pa.Table:
    """Return the table of a shard: ``Samples`` of the prompts from index ``start`` on."""
    tokens, lengths, stopped = (np.asarray(x) for x in (samples.tokens, samples.lengths, samples.stopped))
    # Summed in float64: a sum of thousands of float32 terms would lose digits.
    logps = np.asarray(samples.logps, np.float64).sum(-1).astype(np.float32)
    rows = []
    for n, k in np.ndindex(lengths.shape):
        prompt, ids = prompts.prompts[start + n], prompts.ids[start + n]
        earlier, whole = stored_turns(prompt.earlier), stored_whole(prompt)
        response, ended = tokens[n, k, : lengths[n, k]], bool(stopped[n, k])
        text = tokenizer.decode(response[:-1] if ended else response, skip_special_tokens=True)
        rows.append(
            (prompt.id, prompt.group, prompt.text, earlier, whole, ids, k, text, response, ended, logps[n, k])
        )
    columns = zip(zip(*rows, strict=True), _SCHEMA.types, strict=True)
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in columns], schema=_SCHEMA)


def responses_from_table(table: pa.Table, max_new_tokens: int) -> Responses:
    """Return the responses stored in a table, whose rows are ordered by prompt, K for each."""
    count = int(max(table.column("response").to_numpy())) + 1
    shape, firsts = (table.num_rows // count, count), table.take(pa.array(range(0, table.num_rows, count)))
    names = ("prompt_id", "prompt", "group", "earlier", "whole")
    columns = (firsts.column(name).to_pylist() for name in names)
    prompts = tuple(stored_prompt(*row) for row in zip(*columns, strict=True))
    prompt_ids = tuple(np.array(row, np.int32) for row in firsts.column("prompt_ids").to_pylist())
    tokens, lengths = pad(table.column("response_ids").to_pylist(), max_new_tokens)
    texts = table.column("text").to_pylist()
    return Responses(
        prompts=EncodedPrompts(prompts, prompt_ids),
        tokens=tokens.reshape(*shape, max_new_tokens),
        lengths=lengths.reshape(shape),
        stopped=table.column("stopped").to_numpy(zero_copy_only=False).reshape(shape),
        logps=table.column("logp").to_numpy().reshape(shape),
        texts=[texts[start : start + count] for start in range(0, len(texts), count)],
    )
