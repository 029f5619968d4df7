"""The TPU's attention kernel, run by its interpreter, against the plain one: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.models.attention import AttentionRule, attend, choose_kernel
from cann_jax.models.attention_inputs import SequenceMask

# Two responses behind one prompt, as training packs them; neither length is a multiple of a block.
PROMPT, RESPONSE = 60, 50


def packed_mask() -> SequenceMask:
    """Of a prompt and a response that are padded, and a response that is not."""
    size = PROMPT + 2 * RESPONSE
    segment = np.repeat([0, 1, 2], [PROMPT, RESPONSE, RESPONSE])
    related = (segment == 0) | (segment == segment[:, None])
    index = np.arange(size)
    valid = (index < PROMPT - 9) | ((index >= PROMPT) & (index < size - 7))
    return SequenceMask(related & np.tri(size, dtype=bool), jnp.asarray(valid)[None])


@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize(("known", "before"), [(True, 0), (False, 0), (True, 37), (False, 37)])
def test_same_as_the_plain_kernel(softcap, known, before):
    """``before``: tokens that have keys but no queries, as those of a prefix."""
    random, whole = np.random.default_rng(0), packed_mask()
    mask = SequenceMask(whole.pattern[before:], whole.valid)
    masks = {"xla": mask.dense, "splash": mask if known else mask.dense}
    size = mask.dense.shape[2]
    q, k, v, weights = (
        jnp.asarray(random.normal(size=(1, size, heads, 128)), jnp.float32) for heads in (4, 2, 2, 4)
    )
    q, weights = q[:, before:], weights[:, before:]

    def loss(kernel: str, *qkv):
        out = attend(AttentionRule(128**-0.5, softcap, kernel, jnp.float32), *qkv, masks[kernel])
        return jnp.sum(out * weights.reshape(out.shape)), out

    results = {}
    for kernel in ("xla", "splash"):
        gradient = jax.grad(lambda *qkv, kernel=kernel: loss(kernel, *qkv), argnums=(0, 1, 2), has_aux=True)
        results[kernel] = gradient(q, k, v)
    for ours, theirs in zip(*map(jax.tree.leaves, results.values()), strict=True):
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_the_kernel_is_chosen_by_platform():
    assert choose_kernel("auto", jnp.bfloat16, 128, None) == "xla"
    with pytest.raises(InputError, match="splash needs a TPU, and this is a cpu; use auto or xla"):
        choose_kernel("splash", jnp.bfloat16, 128, None)
