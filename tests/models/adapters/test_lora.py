"""Adapters: a new one changes nothing, dropout needs a key, unknown targets are refused."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from scipy.stats import ks_2samp, kstest, uniform

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.models.decoder import LORA_TARGETS
from cann_jax.models.files.load import load_decoder
from cann_jax.models.linear import LoraParam
from tests.builders.forward import our_logits, random_ids
from tests.builders.models import tiny_torch

IDS = random_ids((2, 17))


@pytest.fixture(scope="module")
def fresh(tiny_files, every_target):
    return load_decoder(tiny_files, "float32", every_target, seed=3)


def test_a_new_adapter_changes_nothing(fresh, tiny):
    np.testing.assert_array_equal(our_logits(fresh, IDS), our_logits(tiny, IDS))
    np.testing.assert_array_equal(our_logits(fresh, IDS, key=jax.random.key(0)), our_logits(tiny, IDS))


def test_every_target_gets_its_own_adapter(fresh):
    adapters = {path: leaf for path, leaf in nnx.to_flat_state(nnx.state(fresh, LoraParam))}
    assert {path[2] for path in adapters} == set(LORA_TARGETS)
    assert len(adapters) == 2 * len(LORA_TARGETS)
    q = fresh.layers.attention.q_proj.lora
    assert q.a[...].shape == (3, 64, 4) and q.b[...].shape == (3, 4, 64)
    assert np.abs(q.a[0] - q.a[1]).max() > 0.01  # layers start at different A


def test_adapters_start_as_those_of_peft(tiny_files):
    """A uniform within ±1/√in, B zero."""
    decoder = load_decoder(tiny_files, "float32", LoraConfig(rank=32, targets=("q_proj", "down_proj")))
    torch.manual_seed(0)
    settings = PeftConfig(r=32, target_modules=["q_proj", "down_proj"])
    theirs = get_peft_model(tiny_torch(), settings).state_dict()
    for lora, name, size in (
        (decoder.layers.attention.q_proj.lora, "q_proj", 64),
        (decoder.layers.mlp.down_proj.lora, "down_proj", 96),
    ):
        a = [tensor.numpy() for key, tensor in theirs.items() if f"{name}.lora_A" in key]
        b = [tensor.numpy() for key, tensor in theirs.items() if f"{name}.lora_B" in key]
        assert len(a) == len(b) == 3 and not np.any(b) and not np.any(lora.b[...])
        for values in (np.asarray(lora.a[...]).ravel(), np.ravel(a)):
            assert len(values) == 3 * 32 * size
            assert 0.99 < np.abs(values).max() * np.sqrt(size) <= 1 + 1e-6
            np.testing.assert_allclose(values.std(), 1 / np.sqrt(3 * size), rtol=0.03)
            assert kstest(values, uniform(-1 / np.sqrt(size), 2 / np.sqrt(size)).cdf).pvalue > 1e-3
        assert ks_2samp(np.asarray(lora.a[...]).ravel(), np.ravel(a)).pvalue > 1e-3


def test_adapters_start_from_the_seed(fresh, tiny_files, every_target):
    def first(seed):
        return np.asarray(
            load_decoder(tiny_files, "float32", every_target, seed=seed).layers.mlp.up_proj.lora.a[...]
        )

    np.testing.assert_array_equal(first(3), fresh.layers.mlp.up_proj.lora.a[...])
    assert np.abs(first(4) - first(3)).max() > 0.01


@pytest.fixture(scope="module")
def working(fresh):
    graph, adapters, rest = nnx.split(fresh, LoraParam, ...)
    return nnx.merge(graph, jax.tree.map(lambda x: x + 0.05, adapters), rest)


def test_dropout_only_with_a_key(working, tiny):
    without = our_logits(working, IDS)
    assert np.abs(without - our_logits(tiny, IDS)).max() > 0.1
    np.testing.assert_array_equal(our_logits(working, IDS), without)
    one, same, other = (our_logits(working, IDS, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - without).max() > 1e-3 and np.abs(one - other).max() > 1e-3


def test_adapter_equals_its_formula(working):
    """x ↦ x W + (alpha/rank) x A B, by hand on one layer."""
    linear = working.layers.mlp.down_proj
    graph, state = nnx.split(linear)
    one = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[1], state))
    x = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    kernel, a, b = (np.asarray(leaf[1]) for leaf in (linear.kernel, linear.lora.a, linear.lora.b))
    np.testing.assert_allclose(one(x), x @ kernel + 8.0 / 4 * (x @ a @ b), atol=1e-4)


def test_unknown_target(tiny_files):
    with pytest.raises(
        InputError,
        match=r"targets: 'q' is not a linear layer; did you mean q_proj\?",
    ):
        load_decoder(tiny_files, "float32", LoraConfig(targets=("q",)))
