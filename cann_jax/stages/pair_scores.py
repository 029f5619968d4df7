"""Rewards and constraint scores of both responses of every preference pair."""

from cann_jax.run.outputs import read_pairs, write_scores
from cann_jax.run.run import Run
from cann_jax.run.scorers import check_coverage, load_scorers, print_counts, score_shards


def run(run: Run) -> None:
    """Write ``scores.parquet`` as the stage ``score`` does; ``prompt_id`` is a pair's file and row.

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    responses = read_pairs(run, "train").responses
    scorers, size = load_scorers(run, run.config.trained_on()), run.config.sample.prompts_per_batch
    check_coverage("pair_scores", scorers, responses.prompts.prompts, 2)
    logps = run.reference.logps(responses.prompts.ids, responses.tokens, responses.lengths)
    table, counts = score_shards(scorers, responses, logps, run.folder / "pair_scores", size)
    write_scores(run, "pair_scores", table)
    print_counts("pair_scores", counts, table.num_rows)
