"""Operations that a model needs, from its sizes; docs/metrics.md says what is counted."""

from typing import NamedTuple

from cann_jax.models.config import DecoderConfig


class Row(NamedTuple):
    """Tokens of a sequence, and those of them for which the head is computed; means may be fractions."""

    length: float
    predicted: float


def layer_parameters(shape: DecoderConfig) -> int:
    """Return the number of weights in the matrices of one layer."""
    queries, values = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * queries + 2 * values)
    return attention + 3 * shape.hidden * shape.intermediate


def forward_flops(shape: DecoderConfig, row: Row) -> float:
    """Return the operations of a row's forward pass: 2 per weight and token, attention, and the head.

    Attention counts the whole width of the row, as the plain kernel computes it:
    4 · length² · heads · head size.
    """
    matrices = 2 * layer_parameters(shape) * row.length
    attention = 4 * row.length**2 * shape.heads * shape.head_dim
    head = 2 * shape.vocabulary * shape.hidden * row.predicted
    return shape.layers * (matrices + attention) + head


def training_flops(shape: DecoderConfig, row: Row, *, all_weights: bool) -> float:
    """Return a row's model operations in training: 4ND with adapters, 6ND for all weights.

    These are twice and three times the forward pass, because with adapters the backward pass needs no
    gradient of the frozen weights. Recomputation is not counted
    (Chowdhery et al. 2022, appendix B, the definition of model FLOPs utilisation).
    """
    return forward_flops(shape, row) * (3 if all_weights else 2)


def flops_a_token(shape: DecoderConfig, row: Row, *, all_weights: bool) -> float:
    """Return ``training_flops`` for each token of the row."""
    return training_flops(shape, row, all_weights=all_weights) / row.length
