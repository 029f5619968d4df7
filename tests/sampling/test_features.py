"""Features of responses: what plain forward passes give, for every length; the draws stay as they are."""

import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.sampling.features import chosen_layers
from tests.builders.features import features_by_forward
from tests.sampling.test_generate import LENGTHS, LIMIT, NEVER, PROMPTS, sample

LAYERS = (1, 3)


def assert_right(model, samples, layers=LAYERS, rows=(0, 1, 2)):
    prompts = [PROMPTS[n, : LENGTHS[n]] for n in rows]
    expected = features_by_forward(model.decoder, prompts, samples.tokens, samples.lengths, layers)
    assert samples.features.shape == expected.shape and samples.features.dtype == np.float32
    np.testing.assert_allclose(samples.features, expected, atol=2e-5)


@pytest.fixture(scope="module")
def free(tiny_model):
    """Samples that no stop token ends."""
    return sample(tiny_model)


def stops(free) -> list[tuple[int, ...]]:
    """Sets of stop tokens that end: nothing; everything at once; responses at many places."""
    early = {int(free.tokens[place]) for place in ((0, 0, 0), (1, 1, 2), (2, 2, 5), (0, 3, 8), (1, 4, 11))}
    return [NEVER, tuple(range(300)), tuple(early)]


def test_features_are_means_of_normalized_residual_streams(tiny_model, free):
    """Over all tokens of a response, for every length from 1 to the limit; the draws are not touched."""
    seen = set()
    for stop in stops(free):
        without = sample(tiny_model, stop=stop)
        samples = sample(tiny_model, stop=stop, feature_layers=LAYERS)
        assert without.features is None
        for name in ("tokens", "lengths", "logps", "stopped"):
            np.testing.assert_array_equal(getattr(samples, name), getattr(without, name))
        assert_right(tiny_model, samples)
        seen |= set(np.unique(samples.lengths))
    assert {1, LIMIT} < seen and len(seen) >= 5


def test_what_would_come_behind_the_limit_stops_nothing(tiny_model, free):
    """The last token is read for its features, and what it predicts drawn: a stop token there is no end."""
    longer = sample(tiny_model, max_new_tokens=LIMIT + 1)
    np.testing.assert_array_equal(longer.tokens[..., :LIMIT], free.tokens)
    behind = np.setdiff1d(longer.tokens[..., LIMIT], free.tokens)
    assert len(behind) > 3
    samples = sample(tiny_model, stop=behind, feature_layers=LAYERS)
    assert not samples.stopped.any() and (samples.lengths == LIMIT).all()


def test_responses_of_one_token(tiny_model):
    samples = sample(tiny_model, rows=(1,), max_new_tokens=1, feature_layers=(2,))
    assert (samples.lengths == 1).all() and not samples.stopped.any()
    assert_right(tiny_model, samples, (2,), rows=(1,))


def test_every_layer_in_order(tiny_model):
    every = sample(tiny_model, feature_layers=(1, 2, 3)).features
    for n in (1, 2, 3):
        one = sample(tiny_model, feature_layers=(n,)).features
        np.testing.assert_allclose(every[..., 64 * (n - 1) : 64 * n], one, atol=1e-6)


def test_default_layers_are_five_at_even_depths():
    assert chosen_layers(None, 30) == (6, 12, 18, 24, 30)
    assert chosen_layers(None, 32) == (6, 13, 19, 26, 32)
    assert [chosen_layers(None, depth) for depth in (1, 2, 3)] == [(1,), (1, 2), (1, 2, 3)]
    assert chosen_layers((), 3) == () and chosen_layers((1, 3), 3) == (1, 3)


def test_a_layer_that_the_model_does_not_have():
    with pytest.raises(InputError, match=r"sample.feature_layers: 31 is no layer of the model, which has 30"):
        chosen_layers((6, 31), 30)
