"""Rewards and constraint scores of every sampled response."""

import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.config.prealign import to_prealign
from cann_jax.config.run import RunConfig
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.errors import InputError
from cann_jax.files.hashes import fingerprint_file, fingerprint_json
from cann_jax.files.progress import track
from cann_jax.run.run import Run, stage
from cann_jax.run.training import ADAPTER
from cann_jax.runtime.distributed import agreed, barrier, writing_shard
from cann_jax.scorers import Scored, Scorer, check_finite, load_scorer, model_fingerprint
from cann_jax.scorers.column import Column
from cann_jax.scorers.function import find_function
from cann_jax.scorers.judge import read_template
from cann_jax.stages.sample import read_samples

REWARD = "reward"

Scorers = dict[str, tuple[Scorer, str]]  # (scorer, its key in the configuration) by column name


def run_score(run: Run) -> None:
    """Leaves ``score/scores.parquet``: prompt_id, group, response, reward and one column a constraint.

    Raises:
        InputError: a scorer fails, a score is NaN or infinite, or every prompt's responses are identical.
    """
    config = run.config
    scorers = reward_and_constraints(config)
    settings = {**run.model_settings, "scorers": {name: values for name, (values, _) in scorers.items()}}
    inputs = {**run.model_identity, "sample": run.manifest_of("sample"), **scorers_identity(run, scorers)}
    with stage(run, "score", settings, inputs) as work:
        if work is None:
            return
        responses = read_samples(run)
        if all(len(set(row)) == 1 for row in responses.texts):
            raise InputError(
                "all responses of every prompt are identical, so no score can prefer one; "
                "raise sample.temperature, sample.top_p or sample.max_new_tokens, or check the model"
            )
        loaded, size = load_scorers(run, scorers), config.sample.prompts_per_batch
        check_tables(loaded, run.train_prompts.prompts, config.sample.responses)
        table, counts = score_shards(loaded, responses, responses.logps, work.folder, size)
        write_table(work.output("scores.parquet"), table)
        for (name, what), count in counts.items():
            print(f"score: {name}: {count} of {table.num_rows} {what}")


def reward_and_constraints(config: RunConfig) -> dict[str, tuple[dict[str, Any], str]]:
    """(scorer's dictionary, its key) by column name; no margins: a new one must not score anything again."""
    scorers = {REWARD: (config.reward.scorer, "reward.scorer")}
    for name, constraint in config.constraints.items():
        scorers[name] = (constraint.scorer, f"constraints.{name}.scorer")
    return scorers


def load_scorers(run: Run, scorers: Mapping[str, tuple[dict[str, Any], str]]) -> Scorers:
    """Equal configurations share one scorer: two constraints may read one 7B cost model."""
    loaded: dict[str, Scorer] = {}
    found: Scorers = {}
    for name, (values, key) in scorers.items():
        same = fingerprint_json(values)
        if same not in loaded:
            loaded[same] = load_scorer(located(run, values), key, run.reference, run.config.prompts)
        found[name] = loaded[same], key
    return found


def located(run: Run, values: dict[str, Any]) -> dict[str, Any]:
    """A scorer's dictionary in which a model that the run pre-aligned itself is named by its adapter.

    Raises:
        InputError: it has not been pre-aligned to its end.
    """
    asked = to_prealign(values)
    if asked is None:
        return values
    run.manifest_of(asked.stage)
    return values | {"prealigned": {"adapter": str(run.folder / asked.stage / ADAPTER)}}


def check_tables(scorers: Scorers, prompts: Sequence[Prompt], responses: int) -> None:
    """Raise InputError where a ``column`` lacks scores: of the whole run, and before anything is scored.

    Rows that no sampled response asks for are counted and said.
    """
    for name, (scorer, _) in scorers.items():
        spare = scorer.check(prompts, responses) if isinstance(scorer, Column) else 0
        if spare:
            print(f"score: {name}: {spare} rows of {scorer.config.path} are of no sampled response; not used")


def score_shards(
    scorers: Scorers, responses: Responses, reference_logps: np.ndarray, folder, size: int, name: str = ""
) -> tuple[pa.Table, Mapping[tuple[str, str], int]]:
    """Score block by block; finished blocks ``folder/scores-00000.parquet``, … are kept and read back.

    Args:
        scorers: What to score by.
        responses: What to score.
        reference_logps: (N, K) log π_ref(y|x), nats.
        folder: Where shards lie.
        size: Prompts a shard.
        name: Whose responses they are, where a folder holds shards of several.

    Returns:
        The whole table, and (scorer, what happened) → how often.
    """
    total, prefix = responses.shape[0], f"scores-{name}" if name else "scores"
    paths = [epath.Path(folder) / f"{prefix}-{index:05d}.parquet" for index in range(-(-total // size))]
    there = agreed([path.exists() for path in paths])
    counts: Counter[tuple[str, str]] = Counter()
    for start in track(
        range(0, total, size), f"scoring {name}".strip(), unit=size, noun="prompts", total=total
    ):
        if not there[start // size]:
            block = responses.slice(start, start + size)
            with writing_shard(start // size):
                table = _score_block(scorers, block, reference_logps[start : start + size])
                write_table(paths[start // size], table)
    barrier(f"scored {name}")
    tables = [read_table(path) for path in paths]
    for table in tables:
        counts.update(dict(_counts(table)))
    return pa.concat_tables([table.replace_schema_metadata() for table in tables]), counts


def _score_block(scorers: Scorers, block: Responses, reference_logps: np.ndarray) -> pa.Table:
    """One block's rows; counts travel in the table's metadata, so that a resumed run repeats them."""
    prompts, repeats = block.prompts.prompts, block.shape[1]
    columns = {
        "prompt_id": [prompt.id for prompt in prompts for _ in range(repeats)],
        "group": pa.array([prompt.group for prompt in prompts for _ in range(repeats)], pa.string()),
        "response": pa.array(list(range(repeats)) * len(prompts), pa.int32()),
    }
    counts: dict[str, str] = {}
    done: dict[int, Scored] = {}
    for name, (scorer, key) in scorers.items():
        if id(scorer) not in done:
            done[id(scorer)] = scorer(block, reference_logps)
        scored = done[id(scorer)]
        check_finite(scored.values, block, key)
        columns[name] = pa.array(scored.values.astype(np.float32).reshape(-1))
        counts |= {f"{name}\t{what}": str(count) for what, count in scored.counts.items() if count}
    return pa.table(columns).replace_schema_metadata(counts)


def _counts(table: pa.Table) -> Iterator[tuple[tuple[str, str], int]]:
    for key, value in (table.schema.metadata or {}).items():
        name, what = key.decode().split("\t")
        yield (name, what), int(value)


def scorers_identity(run: Run, scorers: Mapping[str, tuple[dict[str, Any], str]]) -> dict[str, str]:
    """What scores depend on beside the configuration: tables, the user's code, a package's version."""
    found = {}
    for values, key in scorers.values():
        if values["kind"] == "column":
            found[key] = fingerprint_file(values["path"])
        elif values["kind"] == "function":
            found[key] = _source(find_function(values["function"], key))
        elif values["kind"] == "inoffensive":
            found[key] = _version("alt-profanity-check")
        if values["kind"] == "judge":
            found[f"{key}.template"] = fingerprint_json(read_template(values["template"], key))
        if model := model_fingerprint(located(run, values), key):
            found[f"{key}.model"] = model
    return found


def _source(function: Callable[..., Any]) -> str:
    """Fingerprint of the file that defines a function; what it imports is not followed."""
    try:
        return fingerprint_file(inspect.getsourcefile(inspect.unwrap(function)) or "")
    except TypeError:  # compiled, or an instance
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
