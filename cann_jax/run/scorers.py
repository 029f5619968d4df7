"""The scorers of a run: loading, identity, and scoring block by block."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.config.scorers import ScorerConfig, ToPrealign
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.functions import users_code
from cann_jax.files.hashes import fingerprint_json
from cann_jax.files.progress import track
from cann_jax.run.run import ModelRun, Run
from cann_jax.runtime.distributed import barrier, writing_shard
from cann_jax.runtime.memory import within_memory
from cann_jax.runtime.shards import finished_shards, in_order, shard_path, unfinished
from cann_jax.scorers import Context, Scored, Scorer, ScorerKind, check_finite

SMALLER = "use scorers of smaller models, give the mesh more devices, or lower sample.max_new_tokens"
ADAPTER = "adapter"  # a folder in PEFT's format, below the stage that trained it

Scorers = Mapping[str, tuple[str, Scorer]]  # (key in the configuration, scorer) by column name
Counts = Mapping[tuple[str, str], int]  # how often something happened, by (column name, what)


def context_of(run: ModelRun[Any], key: str, *, opened: bool = True) -> Context:
    """Return what the scorer at ``key`` may ask of the run; ``opened`` says whether its model is at hand."""

    def prealigned(asked: ToPrealign) -> Path:
        return Path(run.folder / "prealign" / asked.name / ADAPTER)

    own = cast(Run, run)
    return Context(
        key=key,
        prompts=own.config.prompts,
        files=run.files if opened else None,
        reference=lambda: own.reference,
        prealigned=prealigned,
    )


def identity(run: ModelRun[Any], key: str, scorer: ScorerConfig) -> dict[str, str]:
    """Return fingerprints of what a scorer's values depend on besides its settings and the reference."""
    kind = cast(ScorerKind, scorer)
    with code_of(kind, key):
        return kind.identity(context_of(run, key))


def code_of(part: ScorerKind | Scorer, key: str) -> contextlib.AbstractContextManager[None]:
    """Return a context for calls of a kind: what one of another package raises is no fault of ours."""
    kind = type(part)
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return contextlib.nullcontext()
    return users_code(f"{key}: {kind.__module__}:{kind.__qualname__}")


def load_scorers(run: Run, scorers: Mapping[str, tuple[str, ScorerConfig]]) -> Scorers:
    """Load scorers; equal settings share one: two constraints may read one 7B cost model.

    Raises:
        InputError: Something that a scorer needs is missing, or its probe fails.
    """
    loaded: dict[str, Scorer] = {}
    found = {}
    for name, (key, settings) in scorers.items():
        same = fingerprint_json(settings)
        if same not in loaded:
            kind = cast(ScorerKind, settings)
            with code_of(kind, key):
                loaded[same] = kind.load(context_of(run, key))
        found[name] = key, loaded[same]
    return found


def check_coverage(stage: str, scorers: Scorers, prompts: Sequence[Prompt], responses: int) -> None:
    """Check, before anything is scored, that every response of the run can be; print what is left over.

    Raises:
        InputError: A table lacks a score.
    """
    for name, (key, scorer) in scorers.items():
        with code_of(scorer, key):
            line = scorer.expect(prompts, responses)
        if line:
            print(f"{stage}: {name}: {line}")


def score_shards(
    scorers: Scorers,
    responses: Responses,
    reference_logps: np.ndarray,
    folder: epath.PathLike,
    size: int,
    name: str = "",
) -> tuple[pa.Table, Counts]:
    """Score block by block; finished blocks ``folder/scores-000000-000064.parquet``, … are kept.

    Args:
        scorers: Scorers by column name.
        responses: Responses to score.
        reference_logps: (N, K) log π_ref(y|x), nats.
        folder: Folder of the shards.
        size: Prompts a shard.
        name: The policy's name, where a folder holds shards of several.

    Returns:
        The whole table, and how often something happened.

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    total, pattern = responses.shape[0], f"scores-{name}-{{}}.parquet" if name else "scores-{}.parquet"
    finished = finished_shards(folder, [pattern], total)
    left, done = unfinished(finished, total, size), sum(map(len, finished))
    label = f"scoring {name}".strip()
    for index, chosen in enumerate(track(left, label, unit=size, noun="prompts", total=total, initial=done)):
        with writing_shard(index), within_memory(label, lambda _: SMALLER):
            block = responses.take(chosen)
            table = score_block(scorers, block, reference_logps[chosen.start : chosen.stop])
            write_table(shard_path(folder, pattern, chosen), table, digest=True)
    barrier(f"scored {name}")
    tables = [read_table(shard_path(folder, pattern, chosen)) for chosen in in_order(finished, left)]
    counts: Counter[tuple[str, str]] = Counter()
    for table in tables:
        counts.update(dict(_counts(table)))
    return pa.concat_tables([table.replace_schema_metadata() for table in tables]), counts


def print_counts(stage: str, counts: Counts, rows: int) -> None:
    """Print how often something happened while scoring."""
    for (name, what), count in counts.items():
        print(f"{stage}: {name}: {count} of {rows} {what}")


def score_block(scorers: Scorers, block: Responses, reference_logps: np.ndarray) -> pa.Table:
    """Score one block and return its rows.

    Counts travel in the table's metadata, so that a resumed run repeats them.

    Raises:
        InputError: A scorer fails, or a score is NaN or infinite.
    """
    prompts, repeats = block.prompts.prompts, block.shape[1]
    columns: dict[str, Any] = {
        "prompt_id": [prompt.id for prompt in prompts for _ in range(repeats)],
        "group": pa.array([prompt.group for prompt in prompts for _ in range(repeats)], pa.string()),
        "response": pa.array(list(range(repeats)) * len(prompts), pa.int32()),
    }
    counts: dict[str, str] = {}
    done: dict[int, Scored] = {}
    for name, (key, scorer) in scorers.items():
        if id(scorer) not in done:
            with code_of(scorer, key):
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
