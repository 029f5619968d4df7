"""Rewards and constraint scores of every sampled response."""

from collections.abc import Sequence

import numpy as np

from cann_jax.core.prepare import group_values
from cann_jax.core.problem import Constraint
from cann_jax.files.errors import InputError
from cann_jax.run.outputs import REWARD, Columns, constraints_of, read_samples, read_scores, write_scores
from cann_jax.run.run import Run
from cann_jax.run.scorers import check_coverage, load_scorers, print_counts, score_shards


def run(run: Run) -> None:
    """Write ``scores.parquet``: prompt_id, group, response, reward and one column a constraint.

    Raises:
        InputError: A scorer fails, a score is NaN or infinite, every prompt's responses are identical, or a
            margin is to be met by a score that is the same for all of them.
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
    for line in _without_preference(run, read_scores(run), responses.groups()):
        print(f"score: {line}", flush=True)


def _without_preference(run: Run, scores: Columns, groups: Sequence[str | None]) -> list[str]:
    """Return a line for each score by which no response is better than another to the same prompt.

    Raises:
        InputError: One is that of a constraint that is not met already, by which λ is to be found.
    """
    alike = {name: _alike(values) for name, values in scores.items() if not np.ptp(values, axis=1).any()}
    for each in constraints_of(run.config):
        values = group_values(each, scores[each.name], groups)
        if each.name in alike and run.config.dual.given is None and not _met(each, values):
            goal = f"its {run.config.constraints[each.name].goal}, {each.target:g}, cannot be met"
            key = f"constraints.{each.name}"
            raise InputError(f"{key}: {each.name} {alike[each.name]}, so that {goal}; check the scorer")
    remedy = "; check the scorer, unless the constraints alone are meant"
    return [
        f"! {name} {how}, and prefers none{remedy if name == REWARD else '; check the scorer'}"
        for name, how in alike.items()
    ]


def _alike(values: np.ndarray) -> str:
    if np.ptp(values):
        return "is the same for all responses of a prompt"
    return f"is {values.flat[0] + 0.0:g} for all {values.size} responses"


def _met(constraint: Constraint, values: np.ndarray) -> bool:
    """Return whether the reference meets a constraint; a margin is an improvement on it."""
    return bool(constraint.target <= (np.mean(values) if constraint.margin is None else 0.0))
