"""A tiny model with adapters, a batch of preferences, and what a step needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.config.training import LoraConfig
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.linear import LoraParam
from cann_jax.training.preference_objective import PreferenceBatch


@pytest.fixture(scope="session")
def parts(tiny_folder):
    """Graph, adapters and frozen weights; dropout on."""
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.3, targets=("q_proj", "v_proj", "down_proj"))
    return nnx.split(load_decoder(open_model(str(tiny_folder)), "float32", lora), LoraParam, ...)


@pytest.fixture(scope="session")
def no_dropout(tiny_folder):
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0, targets=("q_proj", "v_proj", "down_proj"))
    return nnx.split(load_decoder(open_model(str(tiny_folder)), "float32", lora), LoraParam, ...)


@pytest.fixture(scope="session")
def batch() -> PreferenceBatch:
    """8 prompts, 3 responses each; the reference's log-probs are not filled in yet."""
    random = np.random.default_rng(0)
    better = random.uniform(size=(8, 3, 3)).astype(np.float32)
    return PreferenceBatch(
        prompts=jnp.asarray(random.integers(0, 300, (8, 6))),
        prompt_lengths=jnp.asarray(random.integers(1, 7, 8)),
        responses=jnp.asarray(random.integers(0, 300, (8, 3, 5))),
        response_lengths=jnp.asarray(random.integers(1, 6, (8, 3))),
        reference_logps=jnp.zeros((8, 3)),
        labels=jnp.asarray(better),
        rewards=jnp.asarray(random.normal(size=(8, 3)).astype(np.float32)),
    )


@pytest.fixture
def fresh(parts):
    """A copy of the adapters, which a step may eat."""
    return jax.tree.map(jnp.copy, parts[1])
