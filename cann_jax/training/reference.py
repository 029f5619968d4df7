"""The reference's log-probs of all responses that a training reads, computed once."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.progress import track
from cann_jax.runtime.distributed import agreed
from cann_jax.runtime.placement import fetch
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
    places |= {f"heldout-{number:05d}": place for number, place in enumerate(data.heldout_places())}
    paths = [folder / f"reference-{name}.parquet" for name in places]
    there = agreed([path.exists() for path in paths])
    shards = list(zip(places.values(), paths, there, strict=True))
    for (rows, columns), path, is_there in track(shards, "reference log-probs"):
        if not np.isnan(reference[rows, columns]).any():
            continue
        if is_there:
            logps = read_table(path).column("logp").to_numpy().reshape(columns.shape)
        else:
            logps = fetch(forward(objective, weights, frozen, data.of(rows, columns)))
            write_table(path, pa.table({"logp": pa.array(logps.reshape(-1), pa.float32())}))
        reference[rows, columns] = logps
    return dataclasses.replace(data, reference=reference)
