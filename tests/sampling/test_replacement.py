"""Slots whose responses are replaced as they end: every response is the one drawn in lockstep."""

import numpy as np
import pytest

from tests.builders.families import save_family
from tests.builders.models import language_model
from tests.sampling.test_features import LAYERS, stops
from tests.sampling.test_generate import RESPONSES, sample

TOTAL = 3 * RESPONSES


@pytest.fixture(scope="module")
def lockstep(tiny_model):
    """Samples of all responses at once, by what ends them: nothing; the first token; many places."""
    free = sample(tiny_model)
    return [(stop, sample(tiny_model, stop=stop, feature_layers=LAYERS)) for stop in stops(free)]


@pytest.mark.parametrize("slots", [1, 5, TOTAL - 1, TOTAL])
def test_every_response_is_that_of_lockstep(tiny_model, lockstep, slots):
    """Slots that divide the responses or not; fewer than those of a prompt, or all; the ids are equal."""
    for stop, expected in lockstep:
        found = sample(tiny_model, stop=stop, feature_layers=LAYERS, slots=slots)
        for name in ("tokens", "lengths", "stopped"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_allclose(found.logps, expected.logps, atol=2e-5)
        np.testing.assert_allclose(found.features, expected.features, atol=2e-5)


def test_without_features(tiny_model, lockstep):
    for stop, expected in lockstep:
        found = sample(tiny_model, stop=stop, slots=4)
        assert found.features is None
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.stopped, expected.stopped)


def test_layers_with_windows_of_their_own(tmp_path):
    """Gemma 3's: the window moves over a cache whose columns another response filled before."""
    model = language_model(save_family(tmp_path, "gemma3_text", sliding_window=3))
    stop = stops(sample(model))[2]
    found, expected = (sample(model, stop=stop, slots=slots) for slots in (4, None))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    assert len(np.unique(found.lengths)) >= 5


def test_responses_of_one_token(tiny_model):
    for layers in ((), (2,)):
        found, expected = (
            sample(tiny_model, max_new_tokens=1, slots=slots, feature_layers=layers) for slots in (4, None)
        )
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        assert (found.lengths == 1).all()
