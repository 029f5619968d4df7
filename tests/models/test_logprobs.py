"""Log-probs of responses: packed behind one prompt, the vocabulary in chunks, nothing held whole."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.models.language_model import LanguageModel
from cann_jax.models.logprobs import response_logps, token_logps
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
