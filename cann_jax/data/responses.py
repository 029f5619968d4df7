"""Responses to a set of prompts, as arrays in memory and as Parquet on disk, one row per response."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import TURNS, Prompt, turns_from

_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "group": pa.string(),
        "prompt": pa.string(),
        "earlier": TURNS,
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

    def slice(self, start: int, stop: int) -> "Responses":
        """Return the prompts from ``start`` up to ``stop``, with their responses."""
        rows = slice(start, stop)
        prompts = EncodedPrompts(self.prompts.prompts[rows], self.prompts.ids[rows])
        return Responses(
            prompts,
            self.tokens[rows],
            self.lengths[rows],
            self.stopped[rows],
            self.logps[rows],
            self.texts[rows],
        )

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
    """Return the table of a shard.

    Args:
        prompts: All prompts.
        start: Index of the first prompt of the shard.
        samples: ``Samples`` of the prompts from ``start`` on.
        tokenizer: A transformers tokenizer.
    """
    tokens, lengths, stopped = (np.asarray(x) for x in (samples.tokens, samples.lengths, samples.stopped))
    # Summed in float64: a sum of thousands of float32 terms would lose digits.
    logps = np.asarray(samples.logps, np.float64).sum(-1).astype(np.float32)
    rows = []
    for n, k in np.ndindex(lengths.shape):
        prompt, ids = prompts.prompts[start + n], prompts.ids[start + n]
        earlier = [asdict(turn) for turn in prompt.earlier]
        response = tokens[n, k, : lengths[n, k]]
        text = tokenizer.decode(response[:-1] if stopped[n, k] else response, skip_special_tokens=True)
        ended = bool(stopped[n, k])
        rows.append(
            (prompt.id, prompt.group, prompt.text, earlier, ids, k, text, response, ended, logps[n, k])
        )
    columns = zip(zip(*rows, strict=True), _SCHEMA.types, strict=True)
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in columns], schema=_SCHEMA)


def responses_from_table(table: pa.Table, max_new_tokens: int) -> Responses:
    """Return the responses stored in a table, whose rows are ordered by prompt, K for each."""
    columns = {
        name: table.column(name).to_pylist() for name in ("prompt_id", "group", "prompt", "earlier", "text")
    }
    count = int(max(table.column("response").to_numpy())) + 1
    shape = (table.num_rows // count, count)
    ids = [np.array(row, np.int32) for row in table.column("response_ids").to_pylist()]
    tokens = np.zeros((table.num_rows, max_new_tokens), np.int32)
    for row, response in enumerate(ids):
        tokens[row, : len(response)] = response
    firsts = range(0, table.num_rows, count)
    names, texts, groups, earlier = (columns[name] for name in ("prompt_id", "prompt", "group", "earlier"))
    prompts = tuple(Prompt(names[i], texts[i], groups[i], turns_from(earlier[i])) for i in firsts)
    prompt_ids = table.column("prompt_ids").take(pa.array(list(firsts))).to_pylist()
    return Responses(
        prompts=EncodedPrompts(prompts, tuple(np.array(row, np.int32) for row in prompt_ids)),
        tokens=tokens.reshape(*shape, max_new_tokens),
        lengths=np.array([len(row) for row in ids], np.int32).reshape(shape),
        stopped=table.column("stopped").to_numpy(zero_copy_only=False).reshape(shape),
        logps=table.column("logp").to_numpy().reshape(shape),
        texts=[columns["text"][i : i + count] for i in firsts],
    )
