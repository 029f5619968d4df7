"""Scores as arrays, as a table holds them: what every way of reading a table returns."""

import dataclasses

import numpy as np
import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class RawTable:
    """Scores of whole prompts, before any constraint is chosen; larger is better in all of them.

    Attributes:
        scores: ``(prompts, responses)`` float32 by name, the reward's first; NaN where there is no response.
        mask: ``(prompts, responses)`` bool; False where there is no response.
        groups: ``(prompts,)`` by column: texts, None for a prompt without a group, or booleans.
        weights: ``(prompts,)`` float64; None: all prompts weigh the same.
        rows: The prompt and the response of each row of a long table, each ``(rows,)``; None for others.
        features: The columns, or the array, that ``--features`` names, as the file holds them.
        dropped: Rows, responses or prompts that were left out because they lack something.
        repeated: Responses whose text another response of the prompt has.
    """

    scores: dict[str, np.ndarray]
    mask: np.ndarray
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None
    rows: tuple[np.ndarray, np.ndarray] | None = None
    features: pa.Table | np.ndarray | None = None
    dropped: int = 0
    repeated: int = 0


def beyond_float32(values: np.ndarray) -> np.ndarray:
    """Return where float64 values are infinite once they are float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isinf(values.astype(np.float32)))


def bad_weights(weights: np.ndarray) -> np.ndarray:
    """Return where weights are negative or infinite; NaN is missing."""
    return np.asarray((weights < 0) | np.isinf(weights))
