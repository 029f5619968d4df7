"""Rewards and constraint scores of every sampled response."""

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.artifacts import fingerprint_file, read_table, write_table
from cann_jax.config import RunConfig
from cann_jax.core import Scores
from cann_jax.data.responses import Responses
from cann_jax.errors import InputError
from cann_jax.progress import track
from cann_jax.scorers import Scorer, check_finite, load_scorer
from cann_jax.stages.run import Run, settings_of, stage
from cann_jax.stages.sample import read_samples

REWARD = "reward"


def run_score(run: Run) -> None:
    """Leaves ``score/scores.parquet``: prompt_id, group, response, reward and one column a constraint.

    Raises:
        InputError: a scorer fails, a score is NaN or infinite, or every prompt's responses are identical.
    """
    config = run.config
    settings = {**settings_of(config, "reward", "model"), "constraints": scorer_settings(config)}
    inputs = {**run.model_identity, "sample": run.manifest_of("sample"), **_column_files(config)}
    with stage(run, "score", settings, inputs) as work:
        if work is None:
            return
        responses = read_samples(run)
        if all(len(set(row)) == 1 for row in responses.texts):
            raise InputError("all responses of every prompt are identical; raise sample.max_new_tokens or check the model")
        scorers = load_scorers(run, reward_and_constraints(config))
        table, counts = score_shards(scorers, responses, responses.logps, work.folder, config.sample.prompts_per_batch)
        write_table(work.output("scores.parquet"), table)
        for (name, what), count in counts.items():
            print(f"score: {name}: {count} of {table.num_rows} {what}")


def reward_and_constraints(config: RunConfig) -> dict[str, tuple[dict, str]]:
    """(scorer's dictionary, its key) by column name."""
    scorers = {REWARD: (config.reward.scorer, "reward.scorer")}
    for name, constraint in config.constraints.items():
        scorers[name] = (constraint.scorer, f"constraints.{name}.scorer")
    return scorers


def scorer_settings(config: RunConfig) -> dict[str, dict]:
    """The constraints' scorers alone: a new margin must not score anything again."""
    return {name: constraint.scorer for name, constraint in config.constraints.items()}


def load_scorers(run: Run, scorers: dict[str, tuple[dict, str]]) -> dict[str, tuple[Scorer, str]]:
    return {
        name: (load_scorer(values, key, run.reference, run.config.prompts), key)
        for name, (values, key) in scorers.items()
    }


def score_shards(
    scorers: dict[str, tuple[Scorer, str]], responses: Responses, reference_logps: np.ndarray, folder, size: int,
    name: str = "scores",
) -> tuple[pa.Table, dict[tuple[str, str], int]]:  # fmt: skip
    """Score block by block; finished blocks ``folder/name-00000.parquet``, … are kept and read back.

    Returns:
        The whole table, and (scorer, what happened) → how often.
    """
    total, tables, counts = responses.shape[0], [], {}
    for start in track(range(0, total, size), f"scoring {name}", unit=size, noun="prompts", total=total):
        path = epath.Path(folder) / f"{name}-{start // size:05d}.parquet"
        if not path.exists():
            block = responses.slice(start, start + size)
            write_table(path, _score_block(scorers, block, reference_logps[start : start + size]))
        table = read_table(path)
        tables.append(table)
        for key, count in _counts(table):
            counts[key] = counts.get(key, 0) + count
    return pa.concat_tables([table.replace_schema_metadata() for table in tables]), counts


def _score_block(scorers, block: Responses, reference_logps: np.ndarray) -> pa.Table:
    """One block's rows; counts travel in the table's metadata, so that a resumed run repeats them."""
    prompts, repeats = block.prompts.prompts, block.shape[1]
    columns = {
        "prompt_id": [prompt.id for prompt in prompts for _ in range(repeats)],
        "group": pa.array([prompt.group for prompt in prompts for _ in range(repeats)], pa.string()),
        "response": pa.array(list(range(repeats)) * len(prompts), pa.int32()),
    }
    counts = {}
    for name, (scorer, key) in scorers.items():
        scored = scorer(block, reference_logps)
        check_finite(scored.values, block, key)
        columns[name] = pa.array(scored.values.astype(np.float32).reshape(-1))
        counts |= {f"{name}\t{what}": str(count) for what, count in scored.counts.items() if count}
    return pa.table(columns).replace_schema_metadata(counts)


def _counts(table: pa.Table):
    for key, value in (table.schema.metadata or {}).items():
        name, what = key.decode().split("\t")
        yield (name, what), int(value)


def read_scores(run: Run) -> Scores:
    """What the stage left, as arrays (prompts, responses)."""
    table = read_table(run.folder / "score" / "scores.parquet")
    return scores_from_table(table, list(run.config.constraints))


def scores_from_table(table: pa.Table, constraints: list[str]) -> Scores:
    count = int(max(table.column("response").to_numpy())) + 1
    columns = [table.column(name).to_numpy().reshape(-1, count) for name in (REWARD, *constraints)]
    return Scores(columns[0], np.stack(columns[1:], axis=-1))


def _column_files(config: RunConfig) -> dict[str, str]:
    """Fingerprints of the tables that ``column`` scorers read."""
    every = {REWARD: config.reward.scorer, **scorer_settings(config)}
    return {f"{name}.path": fingerprint_file(s["path"]) for name, s in every.items() if s.get("kind") == "column"}
