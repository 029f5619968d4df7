"""Features in standard units: by hand, masked, of any size, and those that are not finite."""

import jax
import numpy as np
import pytest

from cann_jax.core import features as features_module
from cann_jax.core.features import standardise_features
from cann_jax.files.errors import InputError

PROMPTS, RESPONSES, WIDTH = 24, 6, 50
RNG = np.random.default_rng(3)
MASK = RNG.random((PROMPTS, RESPONSES)) < 0.7
MASK[:, 0] = True
RAW = RNG.normal(size=(PROMPTS, RESPONSES, WIDTH)) * 7 + RNG.normal(size=(PROMPTS, 1, WIDTH))
RAW[..., 0] = 1234.567
EVERY = np.arange(PROMPTS)


@pytest.mark.parametrize("held", [5, 1000])
def test_standardised_features(monkeypatch, held):
    monkeypatch.setattr(features_module, "BLOCK", held * RESPONSES * WIDTH)
    with jax.enable_x64(True):
        found = standardise_features(np.where(MASK[..., None], RAW, np.nan), MASK)
        values = np.asarray(found[EVERY])
        np.testing.assert_allclose(found[EVERY[::-2]], values[::-2], rtol=0, atol=1e-12)
    assert found.shape == RAW.shape and np.all(values[~MASK] == 0) and np.all(values[..., 0] == 0)
    np.testing.assert_allclose(values.sum(1), 0, rtol=0, atol=1e-10)
    np.testing.assert_allclose((values**2).sum((0, 1))[1:] / MASK.sum(), 1)


def test_features_of_any_type_and_size():
    half = standardise_features(RAW.astype(np.float16))[EVERY]
    assert half.dtype == np.float32
    for factor in (1e-30, 1e30):
        values = standardise_features((RAW * factor).astype(np.float32))[EVERY]
        np.testing.assert_allclose(values, standardise_features(RAW)[EVERY], rtol=0, atol=1e-5)


def test_features_that_never_vary_within_a_prompt_are_zero():
    """Whose mean, rounded, is not always theirs."""
    equal = np.broadcast_to(RNG.normal(size=(PROMPTS, 1, WIDTH)), RAW.shape).astype(np.float32)
    found = standardise_features(equal)
    assert found.spread.dtype == np.float32 and np.all(np.asarray(found[EVERY]) == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    raw = RAW.copy()
    raw[2, 1, 3] = bad
    with pytest.raises(InputError, match=r"features: NaN or infinite for 1 responses .prompt 2 response 1."):
        standardise_features(raw)
    mask = np.ones((PROMPTS, RESPONSES), bool)
    mask[2, 1] = False
    assert np.all(np.isfinite(standardise_features(raw, mask)[EVERY]))
