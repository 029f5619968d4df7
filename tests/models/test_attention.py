"""Which kernel serves, and that each form of attention is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

try:
    from jax.extend.core import jaxprs_in_params
except ImportError:  # jax 0.9
    from jax.core import jaxprs_in_params

from cann_jax.files.errors import InputError
from cann_jax.models.attention import AttentionRule, attend, attend_shared, choose_kernel
from cann_jax.models.files.load import load_decoder


def test_auto_is_xla_without_a_gpu():
    assert jax.default_backend() == "cpu"
    assert choose_kernel("auto", "bfloat16", 64, None) == choose_kernel("xla", "float32", 64, None) == "xla"


def test_cudnn_is_refused_by_name():
    with pytest.raises(InputError, match=r"^model.attention cudnn needs a GPU, and this is a cpu; use auto"):
        choose_kernel("cudnn", "bfloat16", 64, None)


def test_the_decoder_asks_for_it(tiny_files):
    assert load_decoder(tiny_files, "float32").kernel == "xla"
    with pytest.raises(InputError, match=r"^model.attention cudnn"):
        load_decoder(tiny_files, "float32", attention="cudnn")


@pytest.mark.parametrize(
    ("dtype", "head_dim", "cap", "said"),
    [
        ("float32", 64, None, "needs model.dtype bfloat16"),
        ("bfloat16", 64, 50.0, "has no soft-cap"),
        ("bfloat16", 256, None, "takes heads up to 128"),
        ("bfloat16", 60, None, "in steps of 8"),
    ],
)
def test_what_cudnn_cannot_do_falls_to_xla_on_a_gpu(monkeypatch, dtype, head_dim, cap, said):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (
        choose_kernel("auto", "bfloat16", 64, None) == choose_kernel("cudnn", "bfloat16", 64, None) == "cudnn"
    )
    assert choose_kernel("auto", dtype, head_dim, cap) == "xla"
    with pytest.raises(InputError, match=said):
        choose_kernel("cudnn", dtype, head_dim, cap)


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (2, 9, 4, 8))
    k, v = (jax.random.normal(key, (2, 9, 2, 8)) for key in keys[1:3])
    mask = jnp.tril(jax.random.bernoulli(keys[3], 0.7, (2, 9, 9))) | jnp.eye(9, dtype=bool)
    return q, k, v, mask


def rule(cap=None) -> AttentionRule:
    return AttentionRule(0.3, cap, "xla", jnp.float32)


def test_a_wide_soft_cap_is_none(inputs):
    """The own path under a cap that nothing reaches is the library's path."""
    np.testing.assert_allclose(attend(rule(1e4), *inputs), attend(rule(), *inputs), atol=1e-5)
    assert np.abs(attend(rule(0.5), *inputs) - attend(rule(), *inputs)).max() > 0.05


def test_soft_cap_by_its_formula(inputs):
    q, k, v, mask = (np.asarray(x) for x in inputs)
    k, v = (np.repeat(x, 2, axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
    scores = np.where(mask[:, None], 0.5 * np.tanh(scores / 0.5), -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 9, -1)
    np.testing.assert_allclose(attend(rule(0.5), *inputs), expected, atol=1e-5)


@pytest.mark.parametrize("cap", [None, 0.5])
def test_shared_prompt_is_the_last_row_of_the_whole(inputs, cap):
    """Five tokens of prompt, four of each of two responses, under a mask of any form."""
    q, k, v, mask = inputs
    own_mask = jnp.array([[True, False, True, True], [False, True, True, False]])
    whole = jnp.concatenate([mask[:, -1:, :5], own_mask[:, None]], axis=-1)
    expected = attend(rule(cap), q[:, -1:], k, v, whole)
    own = [jnp.repeat(x[:, None, 5:].swapaxes(2, 3), 2, axis=1) for x in (k, v)]
    queries = jnp.repeat(q[:, -1:], 2, axis=1)
    out = attend_shared(rule(cap), queries, (k[:, :5], v[:, :5]), own, (mask[:, -1, :5], own_mask))
    np.testing.assert_allclose(out, jnp.repeat(expected, 2, axis=1), atol=1e-5)


def factor_types(jaxpr) -> set[str]:
    """Return the dtypes of the factors of all matrix products in a program."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found |= {str(factor.aval.dtype) for factor in equation.invars}
        for inner in jaxprs_in_params(equation.params):
            found |= factor_types(inner)
    return found


@pytest.mark.parametrize("cap", [None, 2.0])
def test_the_backward_pass_multiplies_in_the_dtype_too(inputs, cap):
    """JAX's own rules would widen the factors to float32."""
    narrow = AttentionRule(0.3, cap, "xla", jnp.bfloat16)
    of_all = jax.grad(lambda *arrays: attend(narrow, *arrays, inputs[3]).sum(), argnums=(0, 1, 2))
    assert factor_types(jax.make_jaxpr(of_all)(*inputs[:3]).jaxpr) == {"bfloat16"}
