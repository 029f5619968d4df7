"""The reference's log-probs of all responses that a training reads, computed once."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.progress import track
from cann_jax.runtime.distributed import kept_shards
from cann_jax.runtime.placement import fetch
from cann_jax.runtime.preemption import stop_here
from cann_jax.training.preference_data import PreferenceData
from cann_jax.training.preference_objective import PreferenceObjective
from cann_jax.training.step import forward


def with_reference(
    objective: PreferenceObjective, weights: Any, frozen: Any, data: PreferenceData, folder: epath.Path
) -> PreferenceData:
    """Return ``data`` with the reference's log-probs, as training computes them; finished shards are kept.

    Args:
        objective: What the training minimizes.
        weights: The trained weights, as they are in the reference.
        frozen: Weights that are never trained.
        data: The data.
        folder: Folder of the shards, one a step, and of those of the prompts that are kept from training.
    """
    reference = data.reference.copy()
    places = {f"{step:05d}": data.places(step) for step in range(data.steps)}
    places |= {f"heldout-{number:05d}": place for number, place in enumerate(data.other_places())}
    paths = [folder / f"reference-{name}.parquet" for name in places]
    there = kept_shards([(path,) for path in paths])
    shards = list(zip(places.values(), paths, there, strict=True))
    for (rows, columns), path, is_there in track(shards, "reference log-probs"):
        stop_here()
        if not np.isnan(reference[rows, columns]).any():
            continue
        logps = _kept(path, rows, columns) if is_there else None
        if logps is None:
            logps = fetch(forward(objective, weights, frozen, data.of(rows, columns)))
            write_table(path, _shard(rows, columns, logps), digest=True)
        reference[rows, columns] = logps
    return dataclasses.replace(data, reference=reference)


def _shard(rows: np.ndarray, columns: np.ndarray, logps: np.ndarray) -> pa.Table:
    """Return a shard's table, with the prompt and response that each log-prob is of."""
    places = np.broadcast_arrays(rows, columns)
    of = {name: place.reshape(-1) for name, place in zip(("prompt", "response"), places, strict=True)}
    return pa.table(of | {"logp": pa.array(logps.reshape(-1), pa.float32())})


def _kept(path: epath.Path, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """Read a shard; None where it is of other responses, as one of other labels is that was copied here."""
    table, wanted = read_table(path), _shard(rows, columns, np.zeros(columns.shape, np.float32))
    if table.drop_columns("logp") != wanted.drop_columns("logp"):
        return None
    return np.asarray(table.column("logp").to_numpy()).reshape(columns.shape)
