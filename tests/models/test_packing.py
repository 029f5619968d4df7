"""Several prompts with their responses in one row: log-probs, end states and gradients as one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cann_jax.models.logprobs import response_ends, response_logps
from cann_jax.models.packing import Room, pack
from tests.builders.forward import random_ids

PROMPT_LENGTHS = np.array([5, 8, 1, 3])
LENGTHS = np.array([[1, 6], [6, 2], [4, 4], [1, 1]])
PROMPTS, RESPONSES = random_ids((4, 8)), random_ids((4, 2, 6), seed=1)
ROOMS = [Room(1, 16, 8), Room(2, 28, 15), Room(4, 48, 40)]  # the first two exactly as large as they must be


@partial(jax.jit, static_argnames=("graph", "room"))
def value_and_gradients(graph, weights, room):
    """Return log-probs, end states, and gradients of weighted sums of both by every weight."""
    arrays = (PROMPTS, PROMPT_LENGTHS, RESPONSES, LENGTHS)

    def both(weights):
        model = nnx.merge(graph, weights)
        logps = response_logps(model, *arrays, chunks=7, room=room, rematerialise="elementwise")
        ends = response_ends(model, *arrays, room=room)
        return jnp.sum(logps * jnp.linspace(-1, 1, 8).reshape(4, 2)) + jnp.sum(ends**2), (logps, ends)

    gradient, values = jax.grad(both, has_aux=True)(weights)
    return values, gradient


@pytest.fixture(scope="module")
def padded(tiny):
    return value_and_gradients(*nnx.split(tiny), None)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: f"{room.groups}")
def test_as_one_row_a_prompt(tiny, padded, room):
    values, gradients = value_and_gradients(*nnx.split(tiny), room)
    for got, wanted in zip(values, padded[0], strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    for got, wanted in zip(*map(jax.tree.leaves, (gradients, padded[1])), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5 * float(np.abs(wanted).max()))


def test_where_every_token_lies():
    """Built once more, token by token."""
    room = ROOMS[1]
    rows = jax.device_get(pack(*map(jnp.asarray, (PROMPTS, PROMPT_LENGTHS, RESPONSES, LENGTHS)), room))
    for row in range(2):
        tokens, positions, sizes, ends, targets, before = [], [], [], [], [], []
        seen = np.eye(room.tokens, dtype=bool)
        for group in (2 * row, 2 * row + 1):
            first, head = len(tokens), PROMPT_LENGTHS[group]
            tokens += PROMPTS[group, :head].tolist()
            positions += range(head)
            seen[first : first + head, first : first + head] = np.tri(head)
            for response in range(2):
                start, length = len(tokens), LENGTHS[group, response]
                own = RESPONSES[group, response, :length].tolist()
                tokens, targets = tokens + own, targets + own
                positions += range(head, head + length)
                before += [first + head - 1, *range(start, start + length - 1)]
                ends.append(start + length - 1)
                seen[start : start + length, first : first + head] = True
                seen[start : start + length, start : start + length] = np.tri(length)
            sizes += [head + LENGTHS[group].max()] * (len(tokens) - first)
        count, predicted = len(tokens), len(targets)
        assert rows.tokens[row, :count].tolist() == tokens
        assert rows.positions[row, :count].tolist() == positions
        assert rows.mask.sizes[row, :count].tolist() == sizes
        np.testing.assert_array_equal(rows.mask.dense[row], seen)
        assert rows.before[row, :predicted].tolist() == before
        assert rows.targets[row, :predicted].tolist() == targets
        owners = np.repeat(np.arange(4), LENGTHS[2 * row : 2 * row + 2].ravel())
        assert rows.owners[row].tolist() == [*owners, *[4] * (room.predicted - predicted)]
        assert rows.last[row].tolist() == ends
