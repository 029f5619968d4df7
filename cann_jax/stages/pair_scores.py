"""Rewards and constraint scores of both responses of every preference pair."""

import numpy as np

from cann_jax.core.prepare import constraint_values
from cann_jax.files.atomic import read_table, write_table
from cann_jax.run.outputs import read_pairs
from cann_jax.run.run import Run, stage
from cann_jax.stages.dual import constraints_of, read_multipliers
from cann_jax.stages.score import (
    REWARD,
    check_tables,
    load_scorers,
    reward_and_constraints,
    score_shards,
    scorers_identity,
)

SCORES = "scores.parquet"


def run_pair_scores(run: Run) -> None:
    """Leaves ``pair_scores/scores.parquet``: as ``score``, for the training pairs; prompt_id is file and row.

    Raises:
        InputError: a scorer fails, or a score is NaN or infinite.
    """
    scorers = reward_and_constraints(run.config)
    settings = {**run.model_settings, "scorers": {name: values for name, (values, _) in scorers.items()}}
    inputs = {**run.model_identity, "pairs": run.manifest_of("pairs"), **scorers_identity(run, scorers)}
    with stage(run, "pair_scores", settings, inputs) as work:
        if work is None:
            return
        responses = read_pairs(run, "train").responses()
        loaded = load_scorers(run, scorers)
        check_tables(loaded, responses.prompts.prompts, 2)
        logps = run.reference.logps(responses.prompts.ids, responses.tokens, responses.lengths)
        size = run.config.sample.prompts_per_batch
        table, counts = score_shards(loaded, responses, logps, work.folder, size)
        write_table(work.output(SCORES), table)
        for (name, what), count in counts.items():
            print(f"pair_scores: {name}: {count} of {table.num_rows} {what}")


def read_pair_scores(run: Run) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(n, 2) r_λ of the training pairs, and the scores that it is made of, by name."""
    table = read_table(run.folder / "pair_scores" / SCORES)
    constraints = constraints_of(run.config)
    columns = {
        name: table.column(name).to_numpy().reshape(-1, 2)
        for name in (REWARD, *(constraint.name for constraint in constraints))
    }
    reward = columns[REWARD].astype(np.float32)
    for constraint, multiplier in zip(constraints, read_multipliers(run), strict=True):
        reward = reward + multiplier * constraint_values(constraint, columns[constraint.name])
    return reward, columns
