"""Policies added in log-probs, against full log-softmax passes that are added and normalised by NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax

from cann_jax.models.language_model import LanguageModel
from cann_jax.models.mixture import mixed_logps
from tests.builders.forward import our_logits, random_ids

COEFFICIENTS = (0.8, -0.5)
PROMPTS = [random_ids((5,)), random_ids((8,), seed=3)]
TOKENS, LENGTHS = random_ids((2, 3, 6), seed=1), np.array([[1, 6, 3], [6, 2, 4]])


@pytest.fixture(scope="module")
def models(tiny, tiny_files) -> list[LanguageModel]:
    """The tiny model, and two whose layers were moved; the head is one."""
    graph, state = nnx.split(tiny)
    found = [LanguageModel.of(tiny, tiny_files)]
    for seed in range(len(COEFFICIENTS)):
        random = np.random.default_rng(seed)
        flat = dict(nnx.to_flat_state(state))
        for path, leaf in flat.items():
            if path[-1] == "kernel" and path[0] == "layers":
                flat[path] = leaf.replace(
                    leaf[...] + 0.03 * random.normal(size=leaf.shape).astype(np.float32)
                )
        found.append(LanguageModel.of(nnx.merge(graph, nnx.from_flat_state(flat)), tiny_files))
    return found


def test_it_is_the_normalised_sum_of_log_probs(models):
    found = mixed_logps(models[0], models[1:], COEFFICIENTS, PROMPTS, TOKENS, LENGTHS)
    added = np.zeros(LENGTHS.shape)
    for (row, column), length in np.ndenumerate(LENGTHS):
        prompt = PROMPTS[row]
        ids = np.concatenate([prompt, TOKENS[row, column, :length]])
        reference, *others = [
            log_softmax(np.float64(our_logits(m.decoder, ids[None])[0]), -1) for m in models
        ]
        mixed = reference + sum(c * (o - reference) for c, o in zip(COEFFICIENTS, others, strict=True))
        places = np.arange(len(prompt) - 1, len(ids) - 1)
        added[row, column] = log_softmax(mixed, -1)[places, ids[places + 1]].sum()
    np.testing.assert_allclose(found, added, atol=1e-4)
    whole = models[0].logps(PROMPTS, TOKENS, LENGTHS)
    assert np.abs(found - whole).max() > 0.1
    alone = mixed_logps(models[0], models[1:], (0.0, 1.0), PROMPTS, TOKENS, LENGTHS)
    np.testing.assert_allclose(alone, models[2].logps(PROMPTS, TOKENS, LENGTHS), atol=1e-4)


def test_capped_logits_do_not_add_up(models):
    capped = SimpleNamespace(config=SimpleNamespace(final_softcap=30.0))
    with pytest.raises(ValueError, match="capped"):
        mixed_logps(capped, models[1:], COEFFICIENTS, PROMPTS, TOKENS, LENGTHS)
