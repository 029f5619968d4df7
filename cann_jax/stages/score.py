"""Rewards and constraint scores of every sampled response."""

from cann_jax.files.errors import InputError
from cann_jax.run.outputs import read_samples, write_scores
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
