"""Log-probs of responses: packed behind one prompt, the vocabulary in chunks, nothing held whole."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.models.language_model import LanguageModel, calls
from cann_jax.models.logprobs import response_logps, token_logps
from cann_jax.models.rope import Dynamic, LongRope
from tests.builders.forward import our_logits, random_ids

PROMPT_LENGTHS = np.array([5, 8])
LENGTHS = np.array([[1, 6, 3], [6, 2, 4]])
PROMPTS, RESPONSES = random_ids((2, 8)), random_ids((2, 3, 6), seed=1)


@partial(jax.jit, static_argnames=("graph", "chunks"))
def packed(graph, weights, prompts, responses, chunks=7):
    model = nnx.merge(graph, weights)
    return response_logps(model, prompts, PROMPT_LENGTHS, responses, LENGTHS, chunks=chunks)


@pytest.fixture(scope="module")
def separate(tiny) -> np.ndarray:
    """Each response behind its own copy of the prompt, unpadded, by a full pass and a full log-softmax."""
    out = np.zeros(LENGTHS.shape)
    for (b, r), length in np.ndenumerate(LENGTHS):
        row = np.concatenate([PROMPTS[b, : PROMPT_LENGTHS[b]], RESPONSES[b, r, :length]])
        logps = jax.nn.log_softmax(our_logits(tiny, row[None])[0], axis=-1)
        places = np.arange(PROMPT_LENGTHS[b] - 1, len(row) - 1)
        out[b, r] = np.sum(np.asarray(logps)[places, row[places + 1]])
    return out


def test_packed_responses_equal_separate_passes(tiny, separate):
    np.testing.assert_allclose(packed(*nnx.split(tiny), PROMPTS, RESPONSES), separate, atol=2e-5)


def test_padding_is_never_read(tiny):
    """Ids beyond the lengths change nothing, bit for bit."""
    prompts, responses = PROMPTS.copy(), RESPONSES.copy()
    prompts[np.arange(8) >= PROMPT_LENGTHS[:, None]] = 299
    responses[np.arange(6) >= LENGTHS[..., None]] = 1
    parts = nnx.split(tiny)
    np.testing.assert_array_equal(packed(*parts, prompts, responses), packed(*parts, PROMPTS, RESPONSES))


@pytest.mark.parametrize("chunks", [1, 300])
def test_chunks_change_nothing_but_memory(tiny, separate, chunks):
    np.testing.assert_allclose(packed(*nnx.split(tiny), PROMPTS, RESPONSES, chunks), separate, atol=2e-5)


def test_language_model_takes_any_number(tiny, tiny_files):
    """Batches filled up, groups of responses split: as one by one."""
    model = LanguageModel.of(tiny, tiny_files)
    prompts = [random_ids(length, seed=length) for length in (3, 40, 11)]
    tokens, lengths = random_ids((3, 4, 300), seed=2), np.array([[300, 1, 7, 150]] * 3)
    together = model.logps(prompts, tokens, lengths)
    assert together.shape == (3, 4) and together.dtype == np.float32
    alone = [
        model.logps([prompts[n]], tokens[n : n + 1, [k]], lengths[n : n + 1, [k]])
        for n in (0, 2)
        for k in (1, 3)
    ]
    np.testing.assert_allclose(np.ravel(alone), together[[0, 0, 2, 2], [1, 3, 1, 3]], rtol=1e-5)


@pytest.mark.parametrize(("responses", "length"), [(3, 5), (24, 30)])
def test_what_prompts_begin_with_is_computed_once(tiny, tiny_files, monkeypatch, responses, length):
    """In one row or in several, in which each prompt is: as each prompt alone."""
    model = LanguageModel.of(tiny, tiny_files)
    common = random_ids((19,), seed=5)
    prompts = [np.concatenate([common, random_ids((own,), seed=own)]) for own in (1, 40, 3)]
    tokens, lengths = random_ids((3, responses, length), seed=2), np.full((3, responses), length)
    prefixes, compute = [], LanguageModel.prefix
    monkeypatch.setattr(LanguageModel, "prefix", lambda *a: prefixes.append(len(a[1])) or compute(*a))
    together = model.logps(prompts, tokens, lengths)
    assert prefixes == ([19] if responses == 3 else [19, 58, 21])
    for n in range(3):
        alone = model.logps([prompts[n]], tokens[[n], :1], lengths[[n], :1])
        np.testing.assert_allclose(together[n, :1], alone[0], rtol=1e-5)
    first = model.logps([common[:1]], tokens[:1], lengths[:1])  # nothing stands before its only token
    np.testing.assert_allclose(
        first[:, :1], model.logps([common[:1]], tokens[:1, :1], lengths[:1, :1]), rtol=1e-5
    )


def test_keys_that_depend_on_the_length_are_not_shared(tiny_files):
    assert tiny_files.config.keeps_keys
    for scaling in (Dynamic(2.0, 16), LongRope((1.0,) * 8, (4.0,) * 8, 16, 2.0)):
        rope = replace(tiny_files.config.kinds[0].rope, scaling=scaling)
        kinds = (*tiny_files.config.kinds[:-1], replace(tiny_files.config.kinds[-1], rope=rope))
        assert not replace(tiny_files.config, kinds=kinds).keeps_keys


@pytest.mark.parametrize(("count", "devices"), [(1, 1), (29, 1), (29, 8), (576, 1), (577, 4)])
def test_calls_take_every_row_by_one_program_a_width(count, devices):
    prompts = np.random.default_rng(0).lognormal(3, 1, count).astype(int) + 1
    found = list(calls(prompts, 64, devices))
    np.testing.assert_array_equal(np.unique(np.concatenate([rows for rows, _ in found])), np.arange(count))
    assert {len(rows) % devices for rows, _ in found} == {0}
    sizes = {(len(rows), width) for rows, width in found}
    assert len({width for _, width in sizes}) == len(sizes)
    for rows, width in found:
        assert width - 32 < prompts[rows].max() <= width
    assert sum(len(rows) for rows, _ in found) < count + max(len(rows) for rows, _ in found)


def full(hidden, head, targets):
    logps = jax.nn.log_softmax(hidden @ head.T, axis=-1)
    return jnp.take_along_axis(logps, targets[:, None], axis=-1)[:, 0]


@pytest.mark.parametrize(("vocabulary", "chunks"), [(300, 4), (301, 4), (7, 5), (1000, 1)])
def test_chunked_equals_full_with_gradients(vocabulary, chunks):
    """Also where the chunks do not divide the vocabulary, and for logits far from zero."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = 3 * jax.random.normal(keys[0], (11, 16))
    head = 5 * jax.random.normal(keys[1], (vocabulary, 16)) - 2
    targets = jax.random.randint(keys[2], (11,), 0, vocabulary)
    chunked = partial(token_logps, chunks=chunks, dtype=jnp.float32)
    # Logits here reach ±150, of which a float32 holds 1e-5.
    np.testing.assert_allclose(chunked(hidden, head, targets), full(hidden, head, targets), atol=1e-4)
    weight = jnp.linspace(-1, 1, 11)
    ours, expected = (
        jax.grad(lambda h, w, f=f: jnp.sum(weight * f(h, w, targets)), argnums=(0, 1))(hidden, head)
        for f in (chunked, full)
    )
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def temporary_bytes(function, *arguments) -> int:
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_full_logits_never_exist():
    """Forwards and backwards, the program's memory stays far under one array (targets, vocabulary)."""
    targets, vocabulary, width = 512, 40_000, 16
    hidden, head = jnp.zeros((targets, width)), jnp.zeros((vocabulary, width))
    ids = jnp.zeros(targets, int)
    logits = 4 * targets * vocabulary

    def gradient(function):
        return jax.grad(lambda h, w: jnp.sum(function(h, w, ids)), argnums=(0, 1))

    chunked = partial(token_logps, chunks=20, dtype=jnp.float32)
    assert temporary_bytes(gradient(full), hidden, head) >= logits
    assert temporary_bytes(chunked, hidden, head, ids) < logits / 5
    assert temporary_bytes(gradient(chunked), hidden, head) < logits / 5
