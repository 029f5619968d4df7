"""A score table to try the dual command on: ``python -m cann_jax.dual --example scores.parquet``.

Half of the prompts are everyday ones, half invite harm. A response has a latent
harmfulness a, normal around 0 on everyday prompts and around 1 on inviting ones, and a latent quality q.

* ``reward`` = q + 0.6·a + a level of the prompt: a harmful answer to an inviting prompt pleases who asks.
* ``safe`` = −2·a + noise: minus a cost, so larger is better; on inviting prompts it is low and varies most.
* ``polite`` = −0.5·a + 0.3·q + noise.
* ``group`` is ``everyday`` or ``inviting``.

All noise is Gaussian, so the tilted policy is close to the Gaussian closed form of ``docs/dual.md``.
"""

import numpy as np
import pyarrow as pa

from cann_jax.files.atomic import write_table
from cann_jax.files.errors import InputError


def example_table(prompts: int = 200, responses: int = 64, seed: int = 0) -> pa.Table:
    """Return a long table: one row for each response, scores rounded to three decimals."""
    rng = np.random.default_rng(seed)
    inviting = np.arange(prompts) % 2 == 1
    harm = rng.normal(size=(prompts, responses)) * np.where(inviting, 1.0, 0.4)[:, None] + inviting[:, None]
    quality = rng.normal(size=(prompts, responses))
    level = rng.normal(size=(prompts, 1))
    noise = rng.normal(size=(2, prompts, responses))
    scores = {
        "reward": quality + 0.6 * harm + level,
        "safe": -2 * harm + 0.8 * noise[0],
        "polite": -0.5 * harm + 0.3 * quality + 0.5 * noise[1],
    }
    group = np.where(inviting, "inviting", "everyday")
    return pa.table(
        {
            "prompt": np.repeat([f"prompt {n:03d}" for n in range(prompts)], responses),
            "response": np.tile(np.arange(responses), prompts),
            "group": np.repeat(group, responses),
            **{n: np.round(v, 3).astype(np.float32).ravel() for n, v in scores.items()},
        }
    )


def write_example(path: str) -> None:
    """Write the example table to a Parquet file and print a command to try on it.

    Raises:
        InputError: The path does not end in .parquet or cannot be written.
    """
    if not path.endswith(".parquet"):
        raise InputError(f"--example {path}: give a path that ends in .parquet")
    table = example_table()
    write_table(path, table)
    print(f"{table.num_rows} rows; try: python -m cann_jax.dual --scores {path} --margin safe=1")
