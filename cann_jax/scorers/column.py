"""Scores that the user has already, in a table keyed by prompt and response."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from etils import epath

from cann_jax.artifacts import read_table
from cann_jax.config import ColumnScorer
from cann_jax.data.responses import Responses
from cann_jax.errors import InputError
from cann_jax.scorers.base import Scored


@dataclass(frozen=True)
class Column:
    """Scores by (prompt_id, response), turned so that larger is better."""

    scores: dict[tuple[str, int], float]
    config: ColumnScorer
    key: str

    @classmethod
    def load(cls, config: ColumnScorer, key: str) -> "Column":
        """Raises InputError where the file or a column is missing, a score is no number, or a row stands twice."""
        table = _read(config.path, key)
        for name in ("prompt_id", "response", config.column):
            if name not in table.column_names:
                raise InputError(f"{key}: {config.path} has no column {name!r}; it has {', '.join(table.column_names)}")
        try:
            values = table.column(config.column).cast(pa.float64()).to_pylist()
            numbers = table.column("response").cast(pa.int64()).to_pylist()
        except pa.ArrowInvalid as error:
            raise InputError(f"{key}: {config.path}: {error}; scores and response numbers must be numbers") from None
        ids = [str(value) for value in table.column("prompt_id").to_pylist()]
        scores = {pair: value for pair, value in zip(zip(ids, numbers, strict=True), values, strict=True)}
        if len(scores) < table.num_rows:
            raise InputError(f"{key}: {config.path} holds {table.num_rows - len(scores)} rows twice; remove them")
        return cls(scores, config, key)

    def __call__(self, responses: Responses, reference_logps: np.ndarray) -> Scored:
        wanted = [(prompt.id, k) for prompt in responses.prompts.prompts for k in range(responses.shape[1])]
        missing = [pair for pair in wanted if pair not in self.scores]
        if missing:
            prompt, response = missing[0]
            raise InputError(
                f"{self.key}: {self.config.path} lacks {len(missing)} of {len(wanted)} scores, the first that of prompt "
                f"{prompt!r} response {response}; give one row for each sampled response"
            )
        sign = 1 if self.config.better == "higher" else -1
        values = [np.nan if self.scores[pair] is None else self.scores[pair] for pair in wanted]
        return Scored(sign * np.array(values, np.float32).reshape(responses.shape))


def _read(path: str, key: str) -> pa.Table:
    readers = {".parquet": read_table, ".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json}
    kind = epath.Path(path).suffix
    if kind not in readers:
        raise InputError(f"{key}.path {path!r} is none of {', '.join(readers)}; convert the table")
    try:
        return readers[kind](path)
    except FileNotFoundError:
        raise InputError(f"{key}.path {path!r} is missing; check the spelling") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{key}.path {path!r} cannot be read ({error}); mend the file") from None
