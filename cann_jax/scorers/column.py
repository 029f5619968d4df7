"""Scores that exist already, in a table keyed by prompt and response."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from cann_jax.analysis.columns import codes, labels, plain, plain_type
from cann_jax.analysis.faults import FirstFault, checked_numbers
from cann_jax.analysis.formats import (
    TABLES,
    UNFIT,
    KeyColumns,
    format_of,
    read_arrow,
    reading,
    refuse_doubled,
)
from cann_jax.analysis.table_layout import require, require_numbers
from cann_jax.config.scorers import Better
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError, named
from cann_jax.files.hashes import fingerprint_file
from cann_jax.scorers.base import Context, Scored, Scorer, ScorerKind, sign


@dataclass(frozen=True, kw_only=True)
class ColumnScorer(ScorerKind):
    """Scores that already exist: a table with ``prompt_id``, ``response`` and the score.

    Args:
        path: Parquet, CSV, TSV or JSON-lines file; text may be compressed (.gz).
        column: The column that holds the score.
        better: Which way is better.
    """

    kind: Literal["column"] = "column"
    path: str
    column: str
    better: Better
    scores_new_responses: ClassVar[bool] = False

    def load(self, context: Context) -> "Column":
        with named(context.key):
            return Column(_read(self.path, self.column), self, context.key)

    def identity(self, context: Context) -> dict[str, str]:
        return {context.key: fingerprint_file(self.path)}


@dataclass(frozen=True)
class Column(Scorer):
    """A loaded ``ColumnScorer``: scores by (prompt_id, response)."""

    scores: dict[tuple[str, int], float]
    config: ColumnScorer
    key: str

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        self.expect(responses.prompts.prompts, responses.shape[1])
        wanted = _pairs(responses.prompts.prompts, responses.shape[1])
        values = [self.scores[pair] for pair in wanted]
        return Scored(sign(self.config.better) * np.array(values, np.float32).reshape(responses.shape))

    def expect(self, prompts: Sequence[Prompt], responses: int) -> str | None:
        wanted = _pairs(prompts, responses)
        missing = [pair for pair in wanted if pair not in self.scores]
        if missing:
            prompt, response = missing[0]
            raise InputError(
                f"{self.key}: {self.config.path} lacks {len(missing)} of {len(wanted)} scores, the first "
                f"that of prompt {prompt!r} response {response}; give one row for each sampled response"
            )
        spare = len(self.scores) - len(wanted)
        unused = f"{spare} rows of {self.config.path} belong to no sampled response; not used"
        return unused if spare else None


def _pairs(prompts: Sequence[Prompt], responses: int) -> list[tuple[str, int]]:
    return [(prompt.id, k) for prompt in prompts for k in range(responses)]


def _read(path: str, column: str) -> dict[tuple[str, int], float]:
    """Return the scores in a table by (prompt_id, response); NaN where one is missing."""
    table = read_arrow(path, format_of(path, TABLES), KeyColumns(texts=("prompt_id",), labels=()))
    refuse_doubled(path, table.column_names)
    require(path, ["prompt_id", "response", column], table.column_names)
    with reading(path, UNFIT):
        return _scores(path, table, column)


def _scores(path: str, table: pa.Table, column: str) -> dict[tuple[str, int], float]:
    columns = pa.table({name: plain(table[name]) for name in ("prompt_id", "response", column)})
    for name in ("response", column):
        require_numbers(path, name, columns[name].type, plain_type(columns[name].type))
    fault, number = FirstFault(path), np.arange(1, table.num_rows + 1)
    values = checked_numbers(columns, column, number, fault)
    responses = checked_numbers(columns, "response", number, fault)
    fault.check(number, responses % 1 != 0, "has no whole number in column response; number the responses")
    ids, _ = codes(columns["prompt_id"])
    fault.check(number, ids < 0, "has no prompt_id; fill it in or drop the row")
    again = np.ones(len(number), bool)
    again[np.unique(np.stack([ids, responses]), axis=1, return_index=True)[1]] = False
    fault.check(number, again, "gives a response a second score; leave one row for each")
    fault.report()
    pairs = zip(map(str, labels(columns["prompt_id"])), responses.astype(int).tolist(), strict=True)
    return dict(zip(pairs, values.tolist(), strict=True))
