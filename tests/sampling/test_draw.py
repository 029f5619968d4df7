"""One token from logits: the distribution, its edges, the nucleus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from cann_jax.sampling.draw import BLOCK, draw, nucleus, response_keys, uniform

DRAWS = 200_000


def frequencies(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often each id is drawn, with the numbers that sampling itself uses."""
    keys = response_keys(jax.random.key(seed), jnp.arange(DRAWS // 100), 100)
    tokens = jax.jit(jax.vmap(lambda u: draw(jnp.asarray(logits, jnp.float32), u)[0]))(
        uniform(keys, 3).reshape(-1, 2)
    )
    return np.bincount(tokens, minlength=len(logits))


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


SPREAD = np.random.default_rng(0).normal(size=2 * BLOCK + 9).clip(-2, 2)
VOCABULARIES = {
    "one block, not full": SPREAD[:5],
    "exactly one block": SPREAD[:BLOCK],
    "three blocks, the last not full": SPREAD,
    # The second number must be exact inside a block whose mass is small against the whole.
    "mass at both ends of a block boundary": np.where(
        np.isin(np.arange(2 * BLOCK), [BLOCK - 1, BLOCK]), 3.0, -6.0
    ),
}


@pytest.mark.parametrize("logits", VOCABULARIES.values(), ids=VOCABULARIES)
def test_draws_follow_the_softmax(logits):
    expected = DRAWS * probabilities(logits)
    assert expected.min() > 5
    assert chisquare(frequencies(logits), expected).pvalue > 1e-3


def test_logps_are_those_of_the_softmax():
    logits = jnp.asarray(SPREAD)[None] * 4
    u = jax.random.uniform(jax.random.key(0), (300, 2))
    tokens, logps = draw(jnp.broadcast_to(logits, (300, logits.shape[1])), u)
    np.testing.assert_allclose(logps, np.log(probabilities(4 * SPREAD))[tokens], atol=2e-5)


EDGES = np.array([0.0, 1e-38, 0.25, 0.5, 1 - 2**-24, 1 - 2**-23], np.float32)


POSSIBLE = [[0], [BLOCK - 1], [BLOCK], [2 * BLOCK + 8], [3, BLOCK + 1], [7, 2 * BLOCK]]


@pytest.mark.parametrize("possible", POSSIBLE)
def test_impossible_tokens_are_never_drawn(possible):
    """At every edge of [0, 1), with all weight in a few tokens and exactly none elsewhere."""
    logits = np.full(2 * BLOCK + 9, -np.inf)
    logits[possible] = np.log(np.linspace(0.1, 0.9, len(possible)))
    u = jnp.asarray(np.stack(np.meshgrid(EDGES, EDGES), -1).reshape(-1, 2))
    tokens, logps = jax.vmap(lambda pair: draw(jnp.asarray(logits, jnp.float32), pair))(u)
    assert set(np.asarray(tokens)) == set(possible)
    assert np.isfinite(logps).all()


def test_no_impossible_token_among_many_draws():
    """Every other id has probability zero: rounding in the sums must not reach them."""
    logits = np.where(np.arange(4096) % 2, -np.inf, np.random.default_rng(1).normal(size=4096))
    assert frequencies(logits)[1::2].sum() == 0


def test_nucleus_keeps_the_smallest_set():
    probability = np.array([0.05, 0.4, 0.1, 0.3, 0.15])
    logits = jnp.log(jnp.asarray(probability))

    def kept(top_p):
        return set(np.flatnonzero(np.asarray(nucleus(logits, top_p)) > -1e29))

    assert kept(0.39) == {1}
    assert kept(0.41) == {1, 3}
    assert kept(0.69) == {1, 3}
    assert kept(0.71) == {1, 3, 4}
    assert kept(0.94) == {1, 2, 3, 4}
    assert kept(1e-9) == {1}
    assert kept(1.0) == {0, 1, 2, 3, 4}


def test_draws_inside_the_nucleus_are_the_softmax_renormalised():
    logits = SPREAD * 2
    cut = np.asarray(nucleus(jnp.asarray(logits), 0.6))
    inside = np.flatnonzero(cut > -1e29)
    expected = probabilities(logits)[inside]
    assert expected.sum() >= 0.6 > expected.sum() - expected.min()
    counts = frequencies(cut)
    assert counts.sum() == counts[inside].sum()
    assert chisquare(counts[inside], DRAWS * expected / expected.sum()).pvalue > 1e-3


def test_numbers_are_a_function_of_seed_prompt_response_and_position():
    few = response_keys(jax.random.key(0), jnp.array([7]), 2)
    many = response_keys(jax.random.key(0), jnp.array([3, 7, 9]), 5)
    np.testing.assert_array_equal(uniform(few, 4)[0], uniform(many, 4)[1, :2])
    every = [uniform(many, position) for position in range(4)]
    every.append(uniform(response_keys(jax.random.key(1), jnp.array([3, 7, 9]), 5), 0))
    assert len(np.unique(np.stack(every))) == 5 * 3 * 5 * 2
