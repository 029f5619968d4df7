"""A set of prompts, a shard at a time: what is finished survives, and comes out the same."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cann_jax.config.model import PromptsConfig
from cann_jax.config.run import SampleConfig
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts
from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError
from cann_jax.sampling.shards import read_features, read_shards, sample_shards
from tests.builders.damage import DAMAGES, changed
from tests.builders.features import features_by_forward

TEXTS = (
    "How do I make soup?",
    "Tell a joke.",
    "Thank my neighbour for plants.",
    "Hi",
    "What is cooking?",
)
CONFIG = SampleConfig(responses=3, max_new_tokens=6, prompts_per_batch=2, stop=("e",))


@pytest.fixture(scope="module")
def prompts(tiny_model) -> EncodedPrompts:
    every = [Prompt(str(n), text) for n, text in enumerate(TEXTS)]
    config = PromptsConfig(train="", heldout="", on_overlong="error")
    return encode_prompts(every, tiny_model.tokenizer, config, 100)


@pytest.fixture(scope="module")
def finished(tiny_model, prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return folder, sample_shards(tiny_model, prompts, CONFIG, 3, 0, folder, "responses")


def assert_same(first, second):
    for name in ("tokens", "lengths", "stopped", "logps"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.texts == second.texts


def test_what_comes_out(finished, prompts, tiny_model):
    _, responses = finished
    assert responses.shape == (5, 3) and responses.tokens.shape == (5, 3, 6)
    assert [p.text for p in responses.prompts.prompts] == list(TEXTS)
    for kept, made in zip(responses.prompts.ids, prompts.ids, strict=True):
        np.testing.assert_array_equal(kept, made)
    np.testing.assert_allclose(
        responses.logps, tiny_model.logps(prompts.ids, responses.tokens, responses.lengths), atol=5e-5
    )


def test_one_lost_shard_is_made_again_and_no_other(finished, tiny_model, prompts):
    folder, before = finished
    paths = sorted(folder.glob("responses-*.parquet"))
    ranges = ("000000-000002", "000002-000004", "000004-000005")
    assert [path.name for path in paths] == [f"responses-{each}.parquet" for each in ranges]
    content = paths[1].read_bytes()
    for path in paths:
        os.utime(path, ns=(1, 1))
    paths[1].unlink()
    again = sample_shards(tiny_model, prompts, CONFIG, 3, 0, folder, "responses")
    assert paths[1].read_bytes() == content
    assert [path.stat().st_mtime_ns == 1 for path in paths] == [True, False, True]
    assert_same(again, before)
    assert_same(read_shards(folder, "responses", 6), before)


def test_batches_of_another_size_give_the_same_responses(finished, tiny_model, prompts, tmp_path):
    whole = sample_shards(
        tiny_model, prompts, replace(CONFIG, prompts_per_batch=5), 3, 0, tmp_path, "responses"
    )
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    np.testing.assert_array_equal(whole.tokens, finished[1].tokens)
    np.testing.assert_allclose(whole.logps, finished[1].logps, atol=5e-5)


def test_slots_give_the_same_responses(finished, tiny_model, prompts, tmp_path):
    config = replace(CONFIG, prompts_per_batch=5, slots=4)
    whole = sample_shards(tiny_model, prompts, config, 3, 0, tmp_path, "responses")
    np.testing.assert_array_equal(whole.tokens, finished[1].tokens)
    np.testing.assert_allclose(whole.logps, finished[1].logps, atol=5e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_finished_shards_count_whatever_the_batch_size(finished, tiny_model, prompts, tmp_path, size):
    """Prompts 2 and 3 were finished in a batch of two; only the others are sampled, ``size`` at once."""
    folder, before = finished
    kept = tmp_path / "responses-000002-000004.parquet"
    for suffix in ("", ".sha256"):
        shutil.copy(f"{folder / kept.name}{suffix}", tmp_path)
    os.utime(kept, ns=(1, 1))
    config = replace(CONFIG, prompts_per_batch=size)
    whole = sample_shards(tiny_model, prompts, config, 3, 0, tmp_path, "responses")
    assert kept.stat().st_mtime_ns == 1
    np.testing.assert_array_equal(whole.tokens, before.tokens)
    np.testing.assert_allclose(whole.logps, before.logps, atol=5e-5)
    assert [prompt.text for prompt in whole.prompts.prompts] == list(TEXTS)
    assert_same(read_shards(tmp_path, "responses", 6), whole)


def test_half_a_shard_is_removed_before_other_batches_hold_its_prompts(
    finished, tiny_model, prompts, tmp_path
):
    features = sampled_with_features(tiny_model, prompts, tmp_path, 2)
    (tmp_path / "responses-000002-000004.parquet").unlink()
    again = sampled_with_features(tiny_model, prompts, tmp_path, 1)
    assert not (tmp_path / "features-000002-000004.npy").exists()
    np.testing.assert_allclose(again, features, rtol=1e-3, atol=1e-4)


def sampled_with_features(model, prompts, folder, size) -> np.ndarray:
    config = replace(CONFIG, prompts_per_batch=size)
    sample_shards(model, prompts, config, 3, 0, folder, "responses", LAYERS)
    return read_features(folder)[np.arange(5)]


def test_shards_that_hold_the_same_prompts_are_refused(finished, tmp_path):
    shard = finished[0] / "responses-000002-000004.parquet"
    for name in ("responses-000002-000004", "responses-000003-000005"):
        shutil.copy(shard, tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"000002-000004.parquet and .*000003-000005.parquet hold the same"):
        read_shards(tmp_path, "responses", 6)


LAYERS = (1, 3)


def test_features_lie_beside_the_responses(finished, tiny_model, prompts, tmp_path):
    """A shard is complete with both files; the draws are those without features."""
    folder, before = finished
    arguments = (tiny_model, prompts, CONFIG, 3, 0, tmp_path, "responses", LAYERS)
    assert_same(sample_shards(*arguments), before)
    features = read_features(tmp_path)
    assert features.shape == (5, 3, 128) and features[np.arange(2)].dtype == np.float16
    expected = features_by_forward(tiny_model.decoder, prompts.ids, before.tokens, before.lengths, LAYERS)
    for some in (np.arange(5), np.array([4, 1, 3, 1])):  # across shards of two prompts, the last of one
        np.testing.assert_allclose(features[some], expected[some], rtol=1e-3, atol=1e-4)
    assert read_features(folder) is None

    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 12  # each with its digest
    for name in ("features-000002-000004.npy", "responses-000004-000005.parquet"):
        for path in tmp_path.iterdir():
            os.utime(path, ns=(1, 1))
        (tmp_path / name).unlink()
        sample_shards(*arguments)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
        made = {path.name for path in tmp_path.iterdir() if path.stat().st_mtime_ns != 1}
        index = name.partition(".")[0][-13:]
        assert {each.partition(".")[0] for each in made} == {f"features-{index}", f"responses-{index}"}


def test_corrupt_features_are_named(tmp_path):
    for content in (b"", b"PAR1 cut off", np.lib.format.magic(1, 0)):
        (tmp_path / "features-000000-000002.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"features-000000-000002.npy is corrupt .* delete it"):
            read_features(tmp_path)


def test_a_damaged_shard_is_made_again(finished, tiny_model, prompts, tmp_path, capsys):
    """A flipped byte of a Parquet file may well be read, as another log-prob."""
    folder, before = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shards = sorted(tmp_path.glob("*.parquet"))
    contents = [shard.read_bytes() for shard in shards]
    for shard, kind in zip(shards, DAMAGES, strict=True):
        shard.write_bytes(changed(shard.read_bytes(), kind))
    assert_same(sample_shards(tiny_model, prompts, CONFIG, 3, 0, tmp_path, "responses"), before)
    said = capsys.readouterr().out
    assert all(f"{shard} or its .sha256 was altered or cut off; it is made again" in said for shard in shards)
    assert [shard.read_bytes() for shard in shards] == contents
