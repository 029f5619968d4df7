"""Constraints that read the same scores have them computed once."""

import dataclasses

import numpy as np
import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.files.errors import ResourceError
from cann_jax.run.run import Run
from cann_jax.run.scorers import load_scorers, score_shards
from cann_jax.scorers import Scored
from cann_jax.scorers.function import FunctionScorer
from tests.builders.runs import write_config

TOY = FunctionScorer(function="tests.builders.toy_scorers:vowels", better="higher")


def test_equal_configurations_share_one_scorer(tiny_folder, tmp_path):
    run = Run(parse_run(["--config", write_config(tmp_path, tiny_folder)])[0])
    same, other = dataclasses.replace(TOY), dataclasses.replace(TOY, better="lower")
    found = load_scorers(run, {"a": ("key.a", TOY), "b": ("key.b", same), "c": ("key.c", other)})
    assert found["a"][1] is found["b"][1] is not found["c"][1]
    assert [key for key, _ in found.values()] == ["key.a", "key.b", "key.c"]


def two_responses() -> Responses:
    prompts = EncodedPrompts((Prompt("x", "Hi"),), (np.array([1]),))
    ones = np.ones((1, 2), np.int32)
    return Responses(prompts, ones[..., None], ones, ones > 0, ones.astype(np.float32), [["a", "b"]])


def test_memory_that_runs_out_names_what_to_change(tmp_path):
    def scorer(block, reference_logps):
        raise MemoryError

    responses = two_responses()
    with pytest.raises(ResourceError, match=r"scoring aligned: this machine's memory .*smaller models"):
        score_shards({"a": ("key.a", scorer)}, responses, responses.logps, tmp_path, 4, "aligned")


def test_a_shared_scorer_runs_once_a_block(tmp_path):
    calls = []

    def scorer(block, reference_logps):
        calls.append(block.shape)
        return Scored(reference_logps + len(calls), {"odd": 1})

    responses = two_responses()
    table, counts = score_shards(
        {"a": ("key.a", scorer), "b": ("key.b", scorer)}, responses, responses.logps, tmp_path, 4
    )
    assert calls == [(1, 2)]
    assert table.column("a").to_pylist() == table.column("b").to_pylist() == [2.0, 2.0]
    assert counts == {("a", "odd"): 1, ("b", "odd"): 1}
