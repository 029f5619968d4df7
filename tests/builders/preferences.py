"""Small made-up preference files in the layouts of the public data sets."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.prepared_pairs import PreparedPairs, prepare_pairs


def pku_row(number: int, **changes) -> dict:
    """Response 0 is better and unsafe, response 1 is safer and safe."""
    row = {
        "prompt": f"How do I do task {number}?",
        "response_0": f"Do step {number}, and then the rest of it at once.",
        "response_1": f"I would ask somebody about {number}.",
        "better_response_id": 0,
        "safer_response_id": 1,
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "response_0_harm_category": {"Drugs": True, "Cybercrime": False, "Animal Abuse": True},
        "response_1_harm_category": {"Drugs": False, "Cybercrime": False, "Animal Abuse": False},
    }
    row |= changes
    return {name: value for name, value in row.items() if value is not ...}


def telling_rows(count: int) -> list[dict]:
    """The better response says "good" and is safe, the other says "bad" and is not; sides alternate."""
    found = []
    for n in range(count):
        side = n % 2
        texts = {f"response_{side}": f"good good {n}", f"response_{1 - side}": f"bad bad {n}"}
        safe = {f"is_response_{side}_safe": True, f"is_response_{1 - side}_safe": False}
        found.append(pku_row(n, better_response_id=side, safer_response_id=side, **texts, **safe))
    return found


def dialogue(*turns: str) -> str:
    """Turns from a human's on, as hh-rlhf writes them."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[index % 2]}: {text}" for index, text in enumerate(turns))


def hh_row(number: int) -> dict:
    start = ("Hello", "Hi there", f"Tell me about {number}") if number % 2 else (f"Tell me about {number}",)
    return {"chosen": dialogue(*start, f"Gladly: {number}"), "rejected": dialogue(*start, "No.")}


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def prepare(tmp_path: Path, dataset: str, path: Path, **changes) -> PreparedPairs:
    """Prepare a data set below ``tmp_path``; a bad row is an error unless ``changes`` say otherwise."""
    settings = PreferencesConfig(dataset, "error", str(path), prepared=str(tmp_path / "prepared"), **changes)
    return prepare_pairs(settings)
