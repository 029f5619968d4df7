"""Scores that exist already, in a table keyed by prompt and response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from etils import epath

from cann_jax.config.scorers import Better
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file
from cann_jax.scorers.base import Context, Scored, Scorer, ScorerKind, sign


@dataclass(frozen=True, kw_only=True)
class ColumnScorer(ScorerKind):
    """Scores that already exist: a table with ``prompt_id``, ``response`` and the score.

    Args:
        path: Parquet, CSV or JSON-lines file.
        column: The column that holds the score.
        better: Which way is better.
    """

    kind: Literal["column"] = "column"
    path: str
    column: str
    better: Better
    scores_new_responses: ClassVar[bool] = False

    def load(self, context: Context) -> "Column":
        key, table = context.key, _read(self.path, context.key)
        for name in ("prompt_id", "response", self.column):
            if name not in table.column_names:
                known = ", ".join(table.column_names)
                raise InputError(f"{key}: {self.path} has no column {name!r}; it has {known}")
        try:
            values = table.column(self.column).cast(pa.float64()).to_pylist()
            numbers = table.column("response").cast(pa.int64()).to_pylist()
        except pa.ArrowException as error:
            problem = f"{error}; scores and response numbers must be numbers"
            raise InputError(f"{key}: {self.path}: {problem}") from None
        ids = [str(value) for value in table.column("prompt_id").to_pylist()]
        scores = dict(zip(zip(ids, numbers, strict=True), values, strict=True))
        if len(scores) < table.num_rows:
            again = table.num_rows - len(scores)
            problem = f"gives {again} responses a second score; leave one row for each"
            raise InputError(f"{key}: {self.path} {problem}")
        return Column(scores, self, key)

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
        values = [np.nan if self.scores[pair] is None else self.scores[pair] for pair in wanted]
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


# Ids are texts: read as numbers, "007" would lose its zeros.
_TEXT_IDS = pa.csv.ConvertOptions(column_types={"prompt_id": pa.string()})
_READERS: dict[str, Callable[[Any], pa.Table]] = {
    ".parquet": pq.read_table,
    ".csv": partial(pa.csv.read_csv, convert_options=_TEXT_IDS),
    ".jsonl": pa.json.read_json,
}


def _read(path: str, key: str) -> pa.Table:
    kind = epath.Path(path).suffix
    if kind not in _READERS:
        raise InputError(f"{key}.path {path!r} is none of {', '.join(_READERS)}; convert the table")
    try:
        return _READERS[kind](pa.BufferReader(epath.Path(path).read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{key}.path {path!r} is missing; check the spelling") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}.path {path!r} cannot be read ({reason}); fix the file") from None
