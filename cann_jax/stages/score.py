"""Rewards and constraint scores of every sampled response."""

import numpy as np

from cann_jax.files.errors import InputError
from cann_jax.run.outputs import REWARD, read_samples, write_scores
from cann_jax.run.run import Run
from cann_jax.run.scorers import check_coverage, load_scorers, print_counts, score_shards


def run(run: Run) -> None:
    """Write ``scores.parquet``: prompt_id, group, response, reward and one column a constraint.

    Raises:
        InputError: A scorer fails, a score is NaN or infinite, or every prompt's responses are identical.
    """
    config, responses = run.config, read_samples(run)
    if all(len(set(row)) == 1 for row in responses.texts):
        raise InputError(
            "all responses of every prompt are identical, so no score can prefer one; "
            "raise sample.temperature, sample.top_p or sample.max_new_tokens, or check the model"
        )
    scorers, size = load_scorers(run, config.trained_on()), config.sample.prompts_per_batch
    check_coverage("score", scorers, responses.prompts.prompts, config.sample.responses)
    table, counts = score_shards(scorers, responses, responses.logps, run.folder / "score", size)
    write_scores(run, "score", table)
    print_counts("score", counts, table.num_rows)
    for name in scorers:
        _warn_of_no_preference(name, table[name].to_numpy().reshape(responses.shape))


def _warn_of_no_preference(name: str, values: np.ndarray) -> None:
    """Print it where a score ``(prompts, responses)`` finds no response better than another to its prompt."""
    if np.ptp(values, axis=1).any():
        return
    how = f"is {values.flat[0] + 0.0:g} for all {values.size} responses"
    if np.ptp(values):
        how = "is the same for all responses of a prompt"
    remedy = ", unless the constraints alone are meant" if name == REWARD else ""
    print(f"score: ! {name} {how}, and prefers none; check the scorer{remedy}", flush=True)
