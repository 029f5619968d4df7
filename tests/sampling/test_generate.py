"""K responses behind one shared prompt: deterministic, exact, ended by stop tokens as data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.config.run import SampleConfig
from cann_jax.files.errors import InputError
from cann_jax.models.decoder import Decoder
from cann_jax.sampling.generate import generate
from cann_jax.sampling.shards import stop_tokens

PROMPTS, LENGTHS = np.random.default_rng(0).integers(0, 300, (3, 32)), np.array([32, 5, 17])
LIMIT, RESPONSES = 12, 6
NEVER = (999,)


def sample(model, rows=(0, 1, 2), seed=0, stop=NEVER, responses=RESPONSES, max_new_tokens=LIMIT, **settings):
    rows = np.array(rows)
    return jax.tree.map(
        np.asarray,
        generate(
            model.graph, model.weights, PROMPTS[rows], LENGTHS[rows], rows, jax.random.key(seed),
            np.array(stop), responses=responses, max_new_tokens=max_new_tokens, **settings,
        ),
    )  # fmt: skip


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture(scope="module")
def free(tiny_model):
    """Samples that no stop token ends."""
    return sample(tiny_model)


@pytest.fixture(scope="module")
def stop(free) -> tuple[int, int]:
    """Two ids that were sampled in the middle of some responses."""
    return int(free.tokens[0, 0, 4]), int(free.tokens[2, 5, 7])


def test_same_seed_same_samples(tiny_model, free):
    for a, b in zip(sample(tiny_model), free, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (sample(tiny_model, seed=1).tokens != free.tokens).mean() > 0.9


def test_a_response_is_independent_of_its_batch(tiny_model, free):
    """Other prompts beside it, another order, another K: the same tokens."""
    assert_same(sample(tiny_model, rows=(2, 0, 1)), jax.tree.map(lambda x: x[[2, 0, 1]], free))
    assert_same(sample(tiny_model, rows=(1,), responses=2), jax.tree.map(lambda x: x[1:2, :2], free))
    assert len({row.tobytes() for row in free.tokens.reshape(-1, LIMIT)}) == 3 * RESPONSES


def test_logps_equal_those_of_a_full_forward_pass(tiny_model, free):
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in range(3)]
    expected = tiny_model.logps(prompts, free.tokens, free.lengths)
    np.testing.assert_allclose(free.logps.sum(-1), expected, atol=5e-5)
    shorter = np.minimum(free.lengths, 5)
    np.testing.assert_allclose(
        free.logps[..., :5].sum(-1), tiny_model.logps(prompts, free.tokens, shorter), atol=5e-5
    )


def test_bfloat16_decode_equals_its_forward_pass(tiny_folder):
    """The packed cache and weights: the same model, up to the rounding of its products."""
    from tests.builders.models import language_model

    model = language_model(tiny_folder, "bfloat16")
    samples = sample(model)
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in range(3)]
    error = np.abs(samples.logps.sum(-1) - model.logps(prompts, samples.tokens, samples.lengths)) / LIMIT
    assert error.max() < 0.02


def test_limit(free):
    assert (free.lengths == LIMIT).all() and not free.stopped.any()


def test_stop_tokens_are_data(tiny_model, free, stop):
    """A call with other stop tokens follows them; each response is the free one, cut at its first stop."""
    for tokens in (stop[:1], stop[1:], stop):
        ended = sample(tiny_model, stop=tokens)
        assert ended.stopped.any()
        for place in np.ndindex(3, RESPONSES):
            found = np.flatnonzero(np.isin(free.tokens[place], tokens))
            length = found[0] + 1 if len(found) else LIMIT
            assert ended.lengths[place] == length
            assert ended.stopped[place] == bool(len(found))
            np.testing.assert_array_equal(ended.tokens[place][:length], free.tokens[place][:length])
            assert not ended.tokens[place][length:].any() and not ended.logps[place][length:].any()


def test_a_prompt_may_hold_stop_tokens(tiny_model, free):
    """Only what is sampled ends a response."""
    outside = np.setdiff1d(PROMPTS[1, :5], free.tokens[1])
    ended = sample(tiny_model, stop=outside)
    np.testing.assert_array_equal(ended.tokens[1], free.tokens[1])


def test_every_response_stopped_at_once_ends_the_loop(tiny_model):
    ended = sample(tiny_model, stop=np.arange(300))
    assert (ended.lengths == 1).all() and ended.stopped.all()


def test_temperature_and_nucleus_report_the_models_own_logps(tiny_model):
    """Cooler sampling takes likelier tokens, and its log-probs stay those of the model at temperature 1."""
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in range(3)]
    warm = sample(tiny_model).logps.mean()
    for settings in ({"temperature": 0.4}, {"top_p": 0.3}, {"temperature": 0.7, "top_p": 0.5}):
        cool = sample(tiny_model, **settings)
        expected = tiny_model.logps(prompts, cool.tokens, cool.lengths)
        np.testing.assert_allclose(cool.logps.sum(-1), expected, atol=5e-5)
        assert cool.logps.mean() > warm + 0.3
    greedy = sample(tiny_model, temperature=1e-4)
    assert (greedy.tokens == greedy.tokens[:, :1]).all()


def test_first_tokens_follow_the_models_softmax(tiny_model):
    """One prompt, many responses: the share of likely tokens is their probability."""
    responses = 4096
    first = generate(
        tiny_model.graph, tiny_model.weights, PROMPTS[:1], LENGTHS[:1], np.array([0]), jax.random.key(5),
        np.array(NEVER), responses=responses, max_new_tokens=1,
    )  # fmt: skip
    tokens, logps = np.asarray(first.tokens).ravel(), np.asarray(first.logps).ravel()
    for token in np.unique(tokens)[np.bincount(tokens)[np.unique(tokens)] > 40]:
        expected = responses * np.exp(logps[tokens == token][0])
        assert abs(np.sum(tokens == token) - expected) < 5 * np.sqrt(expected)


def test_prompt_is_held_once_for_all_responses():
    """The program's memory grows with K by each response's own part; a K-fold prompt cache would not fit.

    Compiled from shapes: a prompt of 1,024 tokens and 4 new ones.
    """
    from cann_jax.models.config import DecoderConfig
    from cann_jax.models.families.family import LayerKind
    from cann_jax.models.rope import Rope

    kinds = (LayerKind(Rope(16, 1e4)),) * 4
    config = DecoderConfig("llama", 64, 64, 64, 4, 4, 4, 16, 1e-5, kinds, True, 2048)
    graph, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
    prompt, batch = 1024, 2
    cache = 2 * config.layers * batch * prompt * config.kv_heads * config.head_dim * 4

    def memory(responses: int) -> int:
        arguments = (
            jax.ShapeDtypeStruct((batch, prompt), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.int32), jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((1,), jnp.int32),
        )  # fmt: skip
        lowered = generate.lower(graph, weights, *arguments, responses=responses, max_new_tokens=4)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    grown = memory(32) - memory(16)
    # Attention weights over the prompt, (batch, K, heads, prompt), do grow; keys and values do not.
    assert grown < 16 * cache / 4


def test_stop_tokens_of_a_model(tiny_model):
    files = tiny_model.files
    assert files.tokenizer.pad_token_id == files.tokenizer.eos_token_id == 1
    np.testing.assert_array_equal(stop_tokens(files, SampleConfig()), [1])
    np.testing.assert_array_equal(stop_tokens(files, SampleConfig(stop=("<|user|>", "<|end|>"))), [1, 3])
    np.testing.assert_array_equal(stop_tokens(replace(files, ends=(7, 1)), SampleConfig()), [1, 7])
    with pytest.raises(InputError, match=r"sample.stop: 'Hello' is \d tokens"):
        stop_tokens(files, SampleConfig(stop=("Hello",)))
    with pytest.raises(InputError, match=r"no end token; name one in sample.stop"):
        stop_tokens(replace(files, ends=()), SampleConfig())
