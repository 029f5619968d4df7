"""Constraints that read the same scores have them computed once."""

import numpy as np

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import Responses
from cann_jax.run.run import Run
from cann_jax.scorers import Scored
from cann_jax.stages.score import load_scorers, score_shards
from tests.stages.setting import write_config

TOY = {"kind": "function", "function": "tests.stages.toy_scorers:vowels", "better": "higher", "probe": None}


def test_equal_configurations_share_one_scorer(tiny_folder, tmp_path):
    run = Run(parse_run(["--config", write_config(tmp_path, tiny_folder)])[0])
    other = {**TOY, "better": "lower"}
    found = load_scorers(run, {"a": (TOY, "key.a"), "b": (dict(TOY), "key.b"), "c": (other, "key.c")})
    assert found["a"][0] is found["b"][0] is not found["c"][0]
    assert [key for _, key in found.values()] == ["key.a", "key.b", "key.c"]


def test_a_shared_scorer_runs_once_a_block(tmp_path):
    calls = []

    def scorer(block, reference_logps):
        calls.append(block.shape)
        return Scored(reference_logps + len(calls), {"odd": 1})

    prompts = EncodedPrompts((Prompt("x", "Hi"),), (np.array([1]),))
    ones = np.ones((1, 2), np.int32)
    responses = Responses(prompts, ones[..., None], ones, ones > 0, ones.astype(np.float32), [["a", "b"]])
    table, counts = score_shards(
        {"a": (scorer, "key.a"), "b": (scorer, "key.b")}, responses, responses.logps, tmp_path, 4
    )
    assert calls == [(1, 2)]
    assert table.column("a").to_pylist() == table.column("b").to_pylist() == [2.0, 2.0]
    assert counts == {("a", "odd"): 1, ("b", "odd"): 1}
