"""Gradients of full fine-tuning reach every weight, in both dtypes; 16-bit words lose nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.models import linear
from cann_jax.models.bfloat16_words import from_words, to_words
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.logprobs import response_logps
from tests.builders.forward import random_ids
from tests.builders.models import save_tiny

PROMPTS, RESPONSES = random_ids((2, 6)), random_ids((2, 2, 5), seed=1)
LENGTHS = np.array([[5, 3], [4, 5]])


@pytest.fixture(scope="module")
def untied_files(tmp_path_factory):
    return open_model(str(save_tiny(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)))


def gradients(files, dtype: str, rematerialise=None) -> dict:
    decoder = load_decoder(files, dtype, wide=True)
    graph, weights = nnx.split(decoder)

    def loss(weights):
        model = nnx.merge(graph, weights)
        lengths = np.array([6, 4])
        logps = response_logps(
            model, PROMPTS, lengths, RESPONSES, LENGTHS, chunks=4, rematerialise=rematerialise
        )
        return jnp.sum(logps)

    flat = nnx.to_flat_state(jax.jit(jax.grad(loss))(weights))
    return {path: np.asarray(leaf[...]) for path, leaf in flat}


@pytest.fixture(scope="module")
def wide(untied_files):
    return gradients(untied_files, "float32")


def test_every_weight_of_every_layer_has_a_gradient(wide):
    assert {("embedding",), ("lm_head",), ("final_norm", "scale")} < set(wide)
    for path, gradient in wide.items():
        each = gradient if path[0] == "layers" else gradient[None]
        assert all(np.abs(layer).max() > 1e-4 for layer in each), path


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_bfloat16_gradients_point_the_same_way(untied_files, wide, platform, monkeypatch):
    """Words cut no gradient of a float32 weight, whatever the dtype of the products and of the activations
    between them, which accelerators keep rounded too."""
    monkeypatch.setattr(linear, "platform", lambda: platform)
    if platform == "tpu":
        assert linear.rounded(jnp.ones(1), jnp.bfloat16).dtype == jnp.bfloat16
    for path, gradient in gradients(untied_files, "bfloat16").items():
        assert gradient.dtype == np.float32
        cosine = np.sum(gradient * wide[path]) / np.linalg.norm(gradient) / np.linalg.norm(wide[path])
        assert cosine > 0.99, path


def test_tied_embedding_gets_both_gradients(tiny_files):
    """As input and as head: ids that are nowhere in the batch still get the head's part."""
    gradient = gradients(tiny_files, "bfloat16")[("embedding",)]
    absent = np.setdiff1d(np.arange(300), np.concatenate([PROMPTS.ravel(), RESPONSES.ravel()]))
    assert np.abs(gradient[absent]).max() > 1e-4
    assert np.abs(gradient[PROMPTS[0, 0]] - gradient[absent].mean(0)).max() > 1e-3


@pytest.mark.parametrize("what", ["everything", "elementwise"])
def test_rematerialisation_changes_no_gradient(untied_files, wide, what):
    for path, gradient in gradients(untied_files, "float32", what).items():
        np.testing.assert_allclose(gradient, wide[path], rtol=1e-4, atol=1e-4 * np.abs(wide[path]).max())


def test_words_round_trip():
    """Every one of the 65,536 bit patterns, NaN payloads among them."""
    words = jnp.arange(2**16, dtype=jnp.uint16)
    tree = {"narrow": jax.lax.bitcast_convert_type(words, jnp.bfloat16), "wide": jnp.ones(3)}
    packed = to_words(tree)
    assert packed["narrow"].dtype == (jnp.uint16 if jax.default_backend() == "cpu" else jnp.bfloat16)
    assert packed["wide"].dtype == jnp.float32
    back = jax.lax.bitcast_convert_type(from_words(packed)["narrow"], jnp.uint16)
    np.testing.assert_array_equal(back, words)
