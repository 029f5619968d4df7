"""Random score tables, and how each format writes them."""

import decimal
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Prompts that formats have run into one another, cut or lost.
NAMES = ("7", "007", "+7", "7.0", 'line "one",\nline two; | and\ttab', " 7", "N/A", "null", "é", "true", "")
CHATS = [[{"role": "user", "content": text}] for text in ("7", "007", "", "é")]


@dataclass
class RandomTable:
    """Scores of prompts with different numbers of responses, rounded to three decimals or whole.

    Attributes:
        prompts: A name for each prompt.
        scores: By name, an array for each prompt.
        weights: Of the prompts.
        groups: The group of each prompt, "a", "b" or None.
    """

    prompts: list
    scores: dict[str, list[np.ndarray]]
    weights: np.ndarray
    groups: list

    def rows(self) -> list[dict]:
        """A row for each response."""
        return [
            {
                "prompt": self.prompts[i],
                "response": f"answer {k % 2}",
                "group": self.groups[i],
                "weight": float(self.weights[i]),
                **{name: each[i][k].item() for name, each in self.scores.items()},
            }
            for i in range(len(self.prompts))
            for k in range(len(self.scores["reward"][i]))
        ]

    def lists(self) -> pa.Table:
        """A row for each prompt, with lists."""
        scores = {name: [each.tolist() for each in values] for name, values in self.scores.items()}
        return pa.table({"group": pa.array(self.groups, pa.string()), "weight": self.weights, **scores})

    def numbered(self) -> list[dict]:
        """A row for each prompt, with numbered columns."""
        width = max(map(len, self.scores["reward"]))
        return [
            {
                "prompt": self.prompts[i],
                "group": self.groups[i],
                "weight": float(self.weights[i]),
                **{
                    f"{name}_{k}": each[i][k].item() if k < len(each[i]) else None
                    for name, each in self.scores.items()
                    for k in range(width)
                },
            }
            for i in range(len(self.prompts))
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        width = max(map(len, self.scores["reward"]))
        padded = {
            name: np.array([np.r_[each, np.full(width - len(each), np.nan)] for each in values])
            for name, values in self.scores.items()
        }
        groups = {"group": np.array(self.groups)} if None not in self.groups else {}
        return padded | groups | {"weight": self.weights, "mask": ~np.isnan(padded["reward"])}


def random_table(seed: int, m: int, whole: bool, ragged: bool, prompts: list, ungrouped=True) -> RandomTable:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, len(prompts)) if ragged else np.full(len(prompts), 3)
    sizes[rng.integers(len(prompts))] = 3  # few shapes: each compiles anew
    harm = [rng.normal(size=size) for size in sizes]
    scores = {"reward": [h + rng.normal(size=h.shape) for h in harm]}
    scores |= {f"g{j}": [rng.normal(size=h.shape) - 0.7 * h for h in harm] for j in range(m)}
    rounded = {
        name: [np.round(3 * v).astype(int) if whole else np.round(v, 3) for v in values]
        for name, values in scores.items()
    }
    kinds = ("a", "b", None) if ungrouped else ("a", "b")
    groups = [kinds[g] for g in rng.permutation(np.arange(len(prompts)) % len(kinds))]
    return RandomTable(prompts, rounded, rng.integers(1, 4, len(prompts)).astype(float), groups)


def as_csv(rows: list[dict], separator: str = ",") -> str:
    """CSV with texts in quotes, and nothing where there is none."""

    def cell(value) -> str:
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return "" if value is None else str(value)

    return "".join(separator.join(map(cell, row)) + "\n" for row in [rows[0], *(r.values() for r in rows)])


def parquet(path: Path, table: pa.Table, rows: int) -> None:
    pq.write_table(table, path, row_group_size=rows)


def typed(rows: list[dict], kind: str) -> pa.Table:
    """A long table whose numbers, and prompts, have one of Arrow's types."""
    table = pa.Table.from_pylist(rows)
    for name in table.column_names:
        column = table[name]
        if name in ("response", "prompt", "group"):
            if kind == "dictionary" and pa.types.is_string(column.type):
                column = column.dictionary_encode()
        elif kind == "text":
            column = pa.chunked_array([[f" {value}" for value in column.to_pylist()]])
        elif kind == "decimal":
            values = [decimal.Decimal(f"{value:.3f}") for value in column.to_pylist()]
            column = pa.chunked_array([pa.array(values, pa.decimal128(12, 3))])
        elif kind == "float32":
            column = column.cast(pa.float32(), safe=False)
        elif kind == "dictionary":
            column = column.dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def large(table: pa.Table) -> pa.Table:
    """The table with large lists."""
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            kind = pa.large_list(pa.float64())
            table = table.set_column(
                index, field.name, pa.chunked_array([table[field.name].to_pylist()], kind)
            )
    return table


# How a table is saved: a suffix, and a function of the path, the table and the rows of a Parquet row group.
FORMATS = {
    "float64": (".parquet", lambda p, t, n: parquet(p, typed(t.rows(), "float64"), n)),
    "float32": (".parquet", lambda p, t, n: parquet(p, typed(t.rows(), "float32"), n)),
    "decimal": (".parquet", lambda p, t, n: parquet(p, typed(t.rows(), "decimal"), n)),
    "dictionary": (".parquet", lambda p, t, n: parquet(p, typed(t.rows(), "dictionary"), n)),
    "text": (".PARQUET", lambda p, t, n: parquet(p, typed(t.rows(), "text"), n)),
    "lists": (".parquet", lambda p, t, n: parquet(p, t.lists(), n)),
    "large lists": (".parquet", lambda p, t, n: parquet(p, large(t.lists()), n)),
    "numbered": (".parquet", lambda p, t, n: parquet(p, pa.Table.from_pylist(t.numbered()), n)),
    "csv": (".csv", lambda p, t, n: p.write_text(as_csv(t.rows()), newline="")),
    "semicolons": (".csv", lambda p, t, n: p.write_text(as_csv(t.rows(), ";"), newline="")),
    "spaces": (".CSV", lambda p, t, n: p.write_text(as_csv(t.rows(), ", "), newline="")),
    "utf-16": (".csv", lambda p, t, n: p.write_text(as_csv(t.rows()), "utf-16", newline="")),
    "mark": (".csv", lambda p, t, n: p.write_text(as_csv(t.rows()), "utf-8-sig", newline="")),
    "tsv": (".tsv", lambda p, t, n: p.write_text(as_csv(t.rows(), "\t"), newline="")),
    "numbered csv": (".csv", lambda p, t, n: p.write_text(as_csv(t.numbered()), newline="")),
    "csv.gz": (".csv.gz", lambda p, t, n: p.write_bytes(gzip.compress(as_csv(t.rows()).encode()))),
    "jsonl": (".jsonl", lambda p, t, n: p.write_text("\n".join(map(json.dumps, t.rows())))),
    "jsonl.gz": (
        ".jsonl.gz",
        lambda p, t, n: p.write_bytes(gzip.compress("\n".join(map(json.dumps, t.rows())).encode())),
    ),
    "json": (".json", lambda p, t, n: p.write_text(json.dumps(t.rows()))),
    "npz": (".npz", lambda p, t, n: np.savez(p, **t.arrays())),
}
