"""Sums of adapters: one adapter with their updates, exactly, and its parts again."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from cann_jax.models.adapters.soup import portion, soup
from cann_jax.models.files.load import load_decoder
from cann_jax.run.training import split
from tests.builders.forward import our_logits
from tests.models.adapters.test_peft import IDS

COEFFICIENTS = (0.7, -1.3, 2.0)


@pytest.fixture(scope="module")
def three(tiny_files, every_target):
    """The tiny model with room for three adapters, and those."""
    lora = replace(every_target, rank=3 * every_target.rank, alpha=3 * every_target.alpha)
    one = split(load_decoder(tiny_files, "float32", every_target), every_target)
    leaves, tree = jax.tree.flatten(one.reference)
    random = np.random.default_rng(0)
    adapters = [
        jax.tree.unflatten(tree, [random.normal(size=leaf.shape).astype(leaf.dtype) * 0.1 for leaf in leaves])
        for _ in COEFFICIENTS
    ]
    return split(load_decoder(tiny_files, "float32", lora), lora), adapters


def test_the_model_is_the_base_with_the_sum_of_the_updates(three, tiny, every_target):
    """Against weights W + Σ c·(alpha/rank)·A B, added up in float64 by NumPy."""
    model, adapters = three
    graph, state = nnx.split(tiny)
    base, scale = dict(nnx.to_flat_state(state)), every_target.alpha / every_target.rank
    flat = [dict(nnx.to_flat_state(each)) for each in adapters]
    for path in {path[:-2] for path in flat[0]}:
        update = sum(
            c
            * np.matmul(np.float64(each[*path, "lora", "a"][...]), np.float64(each[*path, "lora", "b"][...]))
            for c, each in zip(COEFFICIENTS, flat, strict=True)
        )
        kernel = base[*path, "kernel"]
        base[*path, "kernel"] = kernel.replace((np.float64(kernel[...]) + scale * update).astype(np.float32))
    expected = our_logits(nnx.merge(graph, nnx.from_flat_state(base)), IDS)
    found = our_logits(model.decoder(soup(adapters, COEFFICIENTS)), IDS)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found - our_logits(tiny, IDS)).max() > 0.1


def test_one_of_several_is_that_one(three, every_target):
    model, adapters = three
    alone = soup(adapters, (1.0, 0.0, 0.0))
    first = portion(alone, every_target.rank)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(adapters[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.tree.map(np.shape, alone) == jax.tree.map(np.shape, model.reference)
