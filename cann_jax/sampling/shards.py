"""Sample responses to a set of prompts, shard by shard; a killed run keeps its finished shards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.config.run import SampleConfig
from cann_jax.core.features import FeatureTable
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.padding import bucket_width, bucketed
from cann_jax.data.responses import Responses, responses_from_table, responses_table
from cann_jax.data.templates import bare_ids
from cann_jax.files.atomic import read_array, read_table, write_array, write_table
from cann_jax.files.errors import InputError
from cann_jax.files.paths import is_remote
from cann_jax.files.progress import track
from cann_jax.models.files.model_files import ModelFiles
from cann_jax.models.language_model import LanguageModel
from cann_jax.models.prefix import Prefix
from cann_jax.runtime.distributed import barrier, writing_shard
from cann_jax.runtime.memory import within_memory
from cann_jax.runtime.placement import fetch, place_batch, place_parameters
from cann_jax.runtime.shards import finished_shards, in_order, shard_path, shards_in, unfinished
from cann_jax.sampling.generate import generate
from cann_jax.sampling.mesh import Batch, on_sampling_mesh, smaller_batch
from cann_jax.sampling.slots import Samples

FEATURES = "features-{}.npy"  # the features' shards


def sample_shards(
    model: LanguageModel,
    prompts: EncodedPrompts,
    config: SampleConfig,
    responses: int,
    seed: int,
    folder: epath.PathLike,
    name: str,
    feature_layers: tuple[int, ...] = (),
) -> Responses:
    """Sample K responses to all prompts; whole shards ``folder/name-000000-000064.parquet``, … are kept.

    The draw is a function of (seed, index of the prompt, response, position). With ``feature_layers``, each
    shard's features go to ``folder/features-000000-000064.npy``, …, float16 (prompts, K, layers · hidden).
    """
    responses_of = f"{name}-{{}}.parquet"
    patterns = (responses_of, FEATURES) if feature_layers else (responses_of,)
    size, total = config.prompts_per_batch, len(prompts)
    finished = finished_shards(folder, patterns, total)
    left = unfinished(finished, total, size)
    if left:
        stop, static = stop_tokens(model.files, config), static_arguments(config, responses, feature_layers)
        width = bucket_width(max(map(len, prompts.ids)))
        batch = Batch(size, responses, width, config.max_new_tokens, config.slots)
        remedy = partial(smaller_batch, model.weights, model.config, batch)
        with within_memory(f"sampling {name}", remedy), on_sampling_mesh(model.weights, model.config, batch):
            placed = replace(model, weights=place_parameters(model.weights))
            prefix, own = placed.split_prefix(prompts.ids)
            done = sum(map(len, finished))
            for index, chosen in enumerate(
                track(left, f"sampling {name}", unit=size, noun="prompts", total=total, initial=done)
            ):
                samples = _sample(placed, prefix, own, chosen, stop, size, seed, static)
                with writing_shard(index):
                    if samples.features is not None:
                        features = np.asarray(samples.features, np.float16)
                        write_array(shard_path(folder, FEATURES, chosen), features, digest=True)
                    table = responses_table(prompts, chosen.start, samples, model.tokenizer)
                    write_table(shard_path(folder, responses_of, chosen), table, digest=True)
    barrier(f"{name} sampled")
    return _read(folder, responses_of, in_order(finished, left), config.max_new_tokens)


def sample_prompts(
    model: LanguageModel, prompts: EncodedPrompts, config: SampleConfig, responses: int, seed: int
) -> Responses:
    """Sample K responses to a few prompts, all at once, and keep nothing; the draw is ``sample_shards``'."""
    stop, static = stop_tokens(model.files, config), static_arguments(config, responses)
    size = len(prompts)
    samples = _sample(model, None, prompts.ids, range(size), stop, size, seed, static)
    table = responses_table(prompts, 0, samples, model.tokenizer)
    return responses_from_table(table, config.max_new_tokens)


def read_shards(folder: epath.PathLike, name: str, max_new_tokens: int) -> Responses:
    """Read all shards of a finished stage."""
    pattern = f"{name}-{{}}.parquet"
    return _read(folder, pattern, shards_in(folder, pattern), max_new_tokens)


@dataclass(frozen=True)
class FeatureShards:
    """Features of a finished stage, read from their files as they are asked for.

    Args:
        paths: The shards, in order.
        ends: One more than the last prompt of each.
        shape: (N, K, layers · hidden).
    """

    paths: tuple[epath.Path, ...]
    ends: np.ndarray
    shape: tuple[int, ...]

    def __getitem__(self, prompts: np.ndarray, /) -> np.ndarray:
        """Return the features (n, K, layers · hidden) of n prompts, float16."""
        found = np.empty((len(prompts), *self.shape[1:]), np.float16)
        shards = np.searchsorted(self.ends, prompts, side="right")
        for shard in np.unique(shards):
            here, array = shards == shard, read_array(self.paths[shard])
            found[here] = array[prompts[here] - (self.ends[shard] - len(array))]
        return found


def read_features(folder: epath.PathLike) -> FeatureTable | None:
    """Return the features (N, K, layers · hidden) of all shards, float16; None where none were stored.

    Those in an object store are read at once: each look at them would fetch whole files.

    Raises:
        InputError: A shard is corrupt.
    """
    paths = [shard_path(folder, FEATURES, prompts) for prompts in shards_in(folder, FEATURES)]
    if not paths:
        return None
    if is_remote(folder):
        return np.concatenate([read_array(path) for path in paths])
    shapes = [read_array(path).shape for path in paths]
    ends = np.cumsum([shape[0] for shape in shapes])
    return FeatureShards(tuple(paths), ends, (int(ends[-1]), *shapes[0][1:]))


def _read(folder: epath.PathLike, pattern: str, shards: Sequence[range], max_new_tokens: int) -> Responses:
    tables = [read_table(shard_path(folder, pattern, prompts)) for prompts in shards]
    return responses_from_table(pa.concat_tables(tables), max_new_tokens)


def stop_tokens(files: ModelFiles, config: SampleConfig) -> np.ndarray:
    """Return the ids that end a response: all of the model's end tokens and those of ``sample.stop``.

    Raises:
        InputError: A stop text is not exactly one token, or there is no end token at all.
    """
    ids = list(files.ends)
    for text in config.stop:
        tokens = bare_ids(text, files.tokenizer)
        if len(tokens) != 1:
            raise InputError(
                f"sample.stop: {text!r} is {len(tokens)} tokens; each stop text must be one token"
            )
        ids += tokens
    if not ids:
        raise InputError("the model has no end token; name one in sample.stop")
    return np.array(sorted(set(ids)), np.int32)


def static_arguments(
    config: SampleConfig, responses: int, feature_layers: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return the static arguments of ``generate``."""
    return {
        "responses": responses,
        "feature_layers": feature_layers,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "slots": config.slots,
    }


def _sample(
    model: LanguageModel,
    prefix: Prefix | None,
    prompts: Sequence[np.ndarray],
    chosen: range,
    stop: np.ndarray,
    size: int,
    seed: int,
    static: dict[str, Any],
) -> Samples:
    """Sample one shard; a smaller one is padded to ``size``, so that it needs no other program."""
    indices = np.arange(chosen.start, chosen.start + size, dtype=np.int32)
    ids, lengths = bucketed([prompts[index] for index in np.minimum(indices, chosen.stop - 1)])
    batch = place_batch([ids, lengths, indices])
    samples = generate(
        model.graph, model.weights, *batch, jax.random.key(seed), stop, prefix=prefix, **static
    )
    fetched: Samples = jax.tree.map(lambda x: fetch(x)[: len(chosen)], samples)
    return fetched
