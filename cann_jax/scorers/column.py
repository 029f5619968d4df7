"""Scores that the user has already, in a table keyed by prompt and response."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from etils import epath

from cann_jax.config.scorers import ColumnScorer
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import InputError
from cann_jax.scorers.base import Scored


@dataclass(frozen=True)
class Column:
    """Scores by (prompt_id, response), turned so that larger is better."""

    scores: dict[tuple[str, int], float]
    config: ColumnScorer
    key: str

    @classmethod
    def load(cls, config: ColumnScorer, key: str) -> "Column":
        """Raises InputError where file or column is missing, or a score is no number or stands twice."""
        table = _read(config.path, key)
        for name in ("prompt_id", "response", config.column):
            if name not in table.column_names:
                raise InputError(
                    f"{key}: {config.path} has no column {name!r}; it has {', '.join(table.column_names)}"
                )
        try:
            values = table.column(config.column).cast(pa.float64()).to_pylist()
            numbers = table.column("response").cast(pa.int64()).to_pylist()
        except pa.ArrowException as error:
            raise InputError(
                f"{key}: {config.path}: {error}; scores and response numbers must be numbers"
            ) from None
        ids = [str(value) for value in table.column("prompt_id").to_pylist()]
        scores = dict(zip(zip(ids, numbers, strict=True), values, strict=True))
        if len(scores) < table.num_rows:
            again = table.num_rows - len(scores)
            raise InputError(
                f"{key}: {config.path} gives {again} responses a second score; leave one row for each"
            )
        return cls(scores, config, key)

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        self.check(responses.prompts.prompts, responses.shape[1])
        sign = 1 if self.config.better == "higher" else -1
        wanted = _pairs(responses.prompts.prompts, responses.shape[1])
        values = [np.nan if self.scores[pair] is None else self.scores[pair] for pair in wanted]
        return Scored(sign * np.array(values, np.float32).reshape(responses.shape))

    def check(self, prompts: Sequence[Prompt], responses: int) -> int:
        """How many rows belong to no response of these prompts; InputError where a response has no score."""
        wanted = _pairs(prompts, responses)
        missing = [pair for pair in wanted if pair not in self.scores]
        if missing:
            prompt, response = missing[0]
            raise InputError(
                f"{self.key}: {self.config.path} lacks {len(missing)} of {len(wanted)} scores, the first "
                f"that of prompt {prompt!r} response {response}; give one row for each sampled response"
            )
        return len(self.scores) - len(wanted)


def _pairs(prompts: Sequence[Prompt], responses: int) -> list[tuple[str, int]]:
    return [(prompt.id, k) for prompt in prompts for k in range(responses)]


def _read_csv(source) -> pa.Table:
    # Ids are texts: read as numbers, "007" would lose its zeros.
    return pa.csv.read_csv(
        source, convert_options=pa.csv.ConvertOptions(column_types={"prompt_id": pa.string()})
    )


_READERS = {".parquet": pq.read_table, ".csv": _read_csv, ".jsonl": pa.json.read_json}


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
        raise InputError(f"{key}.path {path!r} cannot be read ({reason}); mend the file") from None
