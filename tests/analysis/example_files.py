"""The example table, and files of it in every format."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cann_jax.analysis.example import example_table

PROMPTS, RESPONSES = 24, 8
TABLE = example_table(PROMPTS, RESPONSES)


def save(path: Path, table: pa.Table) -> str:
    """The table in the format of the path's ending."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, table.column_names)
            writer.writeheader()
            writer.writerows(table.to_pylist())
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return str(path)
