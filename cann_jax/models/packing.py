"""Groups of several prompts in one row, token after token: nothing is padded but the end of the row.

A group is a prompt and then its R responses. Each response starts at the position after the prompt, and sees
the prompt and itself, never another response and never another group.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cann_jax.models.attention_inputs import DenseMask


@jax.tree_util.register_static
@dataclass(frozen=True)
class Room:
    """What a row holds; static under jit, so that each is one program.

    Args:
        groups: Groups of a row.
        tokens: Tokens of a row, padding at its end included.
        predicted: Those of them that belong to responses.
    """

    groups: int
    tokens: int
    predicted: int


class PackedRows(NamedTuple):
    """Rows of ``Room.tokens`` tokens, and where their responses lie.

    Args:
        tokens: (N, S) ids.
        positions: (N, S) within the token's own group.
        mask: Which tokens see which.
        before: (N, M) place of the state that predicts each response token, response after response.
        targets: (N, M) ids of these tokens.
        owners: (N, M) the response of the row that each belongs to; past the last on padding.
        last: (N, groups · R) place of each response's last token.
    """

    tokens: Array
    positions: Array
    mask: DenseMask
    before: Array
    targets: Array
    owners: Array
    last: Array


def pack(
    prompts: Array, prompt_lengths: Array, responses: Array, response_lengths: Array, room: Room
) -> PackedRows:
    """Return B groups in rows of ``room.groups`` consecutive ones; arguments as ``response_logps``.

    Every row must fit: what goes beyond the room is left out.
    """
    batch, count, width = responses.shape
    rows, pieces = batch // room.groups, room.groups * (1 + count)
    lengths = jnp.concatenate([prompt_lengths[:, None], response_lengths], axis=1).reshape(rows, pieces)
    starts = jnp.cumsum(lengths, axis=1) - lengths
    piece, offset = _pieces(lengths, room.tokens)
    inside, piece = piece < pieces, jnp.minimum(piece, pieces - 1)
    group, part = piece // (1 + count), piece % (1 + count)
    heads = prompt_lengths.reshape(rows, room.groups)
    longest = (prompt_lengths + response_lengths.max(1)).reshape(rows, room.groups)
    positions = jnp.where(inside, offset + jnp.where(part > 0, _at(heads, group), 0), 0)
    mask = DenseMask(_sees(group, part, inside), jnp.where(inside, _at(longest, group), 1))

    widest = max(prompts.shape[1], width)
    both = jnp.concatenate([_wide(prompts, widest)[:, None], _wide(responses, widest)], axis=1)
    tokens = _at(both.reshape(rows, -1), piece * widest + jnp.minimum(offset, widest - 1))

    owner, step = _pieces(response_lengths.reshape(rows, -1), room.predicted)
    response = jnp.minimum(owner, room.groups * count - 1)
    own = response // count * (1 + count) + 1 + response % count
    ends = starts + lengths - 1
    first = _at(ends, response // count * (1 + count))
    before = jnp.where(step == 0, first, jnp.where(owner == response, _at(starts, own) + step - 1, 0))
    targets = _at(responses.reshape(rows, -1), response * width + jnp.minimum(step, width - 1))
    last = ends.reshape(rows, room.groups, 1 + count)[:, :, 1:].reshape(rows, -1)
    return PackedRows(tokens, positions, mask, before, targets, owner, last)


def _pieces(lengths: Array, size: int) -> tuple[Array, Array]:
    """Return for each of ``size`` places the piece (N, size) of a row that it lies in, and where in it.

    The pieces have ``lengths (N, K)`` and lie one after the other; the piece is K behind the last.
    """
    ends = jnp.cumsum(lengths, axis=1)
    piece = jnp.sum(jnp.arange(size)[:, None] >= ends[:, None, :], axis=-1)
    starts = jnp.pad(ends, ((0, 0), (1, 0)))
    return piece, jnp.arange(size) - _at(starts, piece)


def _sees(group: Array, part: Array, inside: Array) -> Array:
    """Return (N, S, S), True where the row sees the column; padding sees itself."""
    size = group.shape[1]
    related = (group[:, :, None] == group[:, None]) & (
        (part[:, None] == 0) | (part[:, :, None] == part[:, None])
    )
    within = inside[:, :, None] & inside[:, None]
    causal = jnp.tri(size, dtype=bool)
    return related & within & causal | jnp.eye(size, dtype=bool)


def _wide(ids: Array, width: int) -> Array:
    return jnp.pad(ids, [(0, 0)] * (ids.ndim - 1) + [(0, width - ids.shape[-1])])


def _at(values: Array, places: Array) -> Array:
    return jnp.take_along_axis(values, places, axis=1)
