"""Sampling a whole set of prompts, a shard at a time; finished shards survive a kill."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from etils import epath

from cann_jax.config.run import SampleConfig
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.responses import Responses, responses_from_table, responses_table
from cann_jax.files.atomic import read_table, write_table
from cann_jax.files.errors import InputError
from cann_jax.files.progress import track
from cann_jax.models.language_model import LanguageModel
from cann_jax.runtime.distributed import agreed, barrier, writing_shard
from cann_jax.runtime.placement import fetch, place_batch
from cann_jax.sampling.generate import generate


def sample_shards(
    model: LanguageModel,
    prompts: EncodedPrompts,
    config: SampleConfig,
    responses: int,
    seed: int,
    folder,
    name: str,
) -> Responses:
    """Sample every prompt, or read the shards ``folder/name-00000.parquet``, … that are there already.

    Args:
        model: The policy.
        prompts: What to answer.
        config: How to sample.
        responses: K.
        seed: The draw is a function of (seed, index of the prompt, response, position).
        folder: Where shards lie.
        name: Prefix of their names.
    """
    stop = stop_tokens(model.tokenizer, config)
    starts = range(0, len(prompts), config.prompts_per_batch)
    paths = [epath.Path(folder) / shard_name(name, index) for index in range(len(starts))]
    there = agreed([path.exists() for path in paths])
    for start in track(
        starts, f"sampling {name}", unit=config.prompts_per_batch, noun="prompts", total=len(prompts)
    ):
        index = start // config.prompts_per_batch
        if not there[index]:
            samples = _sample(model, prompts, start, stop, config, responses, seed)
            with writing_shard(index):
                write_table(paths[index], responses_table(prompts, start, samples, model.tokenizer))
    barrier(f"{name} sampled")
    return responses_from_table(pa.concat_tables([read_table(path) for path in paths]), config.max_new_tokens)


def read_shards(folder, name: str, max_new_tokens: int) -> Responses:
    """All shards of a finished stage."""
    paths = sorted(epath.Path(folder).glob(f"{name}-*.parquet"))
    return responses_from_table(pa.concat_tables([read_table(path) for path in paths]), max_new_tokens)


def shard_name(name: str, index: int) -> str:
    return f"{name}-{index:05d}.parquet"


def stop_tokens(tokenizer, config: SampleConfig) -> np.ndarray:
    """Ids that end a response: the tokenizer's end token and those of ``sample.stop``.

    Raises:
        InputError: a stop text that is more than one token, or no end token at all.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for text in config.stop:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            raise InputError(
                f"sample.stop: {text!r} is {len(tokens)} tokens; each stop text must be one token"
            )
        ids += tokens
    if not ids:
        raise InputError("the tokenizer has no end token; name one in sample.stop")
    return np.array(sorted(set(ids)), np.int32)


def static_arguments(config: SampleConfig, responses: int) -> dict[str, Any]:
    """What ``generate`` is compiled for, besides shapes."""
    return {
        "responses": responses,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
    }


def _sample(model, prompts, start, stop, config: SampleConfig, responses: int, seed: int):
    """Samples of one shard. The last one is filled up, so that its shape is not compiled anew."""
    count = min(config.prompts_per_batch, len(prompts) - start)
    indices = np.arange(start, start + config.prompts_per_batch)
    ids, lengths = prompts.arrays(np.minimum(indices, len(prompts) - 1))
    batch = place_batch([jnp.asarray(ids), jnp.asarray(lengths), jnp.asarray(indices)])
    samples = generate(
        model.graph, model.weights, *batch, jax.random.key(seed), jnp.asarray(stop),
        **static_arguments(config, responses),
    )  # fmt: skip
    return jax.tree.map(lambda x: fetch(x)[:count], samples)
