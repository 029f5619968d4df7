"""Floating-point operations: counted in a program's own description, and from the model's sizes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.interpreters.partial_eval import dce_jaxpr

from cann_jax.config.run import RunConfig
from cann_jax.models.config import DecoderConfig


def program_flops(jaxpr: Any) -> float:
    """Of all matrix products that a program's jaxpr runs on all devices, loops and recomputation included.

    What nobody reads is left out, as XLA does: of frozen weights, the gradient. A loop that may end early
    counts as often as its condition allows; a kernel's inside counts once for each point of its grid.
    """
    read, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return _flops(read)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product_flops(equation)
        total += _times(name, parameters) * sum(_flops(inner) for inner in _inside(parameters))
    return total


def _times(name: str, parameters: dict[str, Any]) -> int:
    """How often what an equation holds runs, on all devices."""
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    if name == "shard_map":
        return parameters["mesh"].size
    if name == "while":
        return _limit(parameters["cond_jaxpr"].jaxpr)
    return parameters.get("length", 1)


def _limit(condition: Any) -> int:
    """The one number that a loop's condition compares with; 1 where it has none."""
    literals = [each for equation in condition.eqns for each in equation.invars if isinstance(each, Literal)]
    return max(
        (int(each.val) for each in literals if jnp.issubdtype(each.aval.dtype, jnp.integer)), default=1
    )


def _inside(parameters: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters, those of all branches."""

    def is_jaxpr(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(value, "jaxpr")

    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=is_jaxpr)
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if is_jaxpr(leaf)]


def _product_flops(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)


def layer_parameters(shape: DecoderConfig) -> int:
    """Weights of a layer's matrices."""
    queries, values = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * queries + 2 * values)
    return attention + 3 * shape.hidden * shape.intermediate


def forward_flops(shape: DecoderConfig, sequences: int, length: int, predicted: int) -> float:
    """Of one pass over ``sequences`` of ``length`` tokens: 2 a weight and token, attention, the head.

    Attention counts each row's whole width, as the plain kernel computes it: 4 · length² · heads · head size.

    Args:
        shape: The model.
        sequences: How many.
        length: Tokens of each.
        predicted: Tokens of each for which the head is computed.
    """
    matrices = 2 * layer_parameters(shape) * length
    attention = 4 * length**2 * shape.heads * shape.head_dim
    head = 2 * shape.vocabulary * shape.hidden * predicted
    return sequences * (shape.layers * (matrices + attention) + head)


def model_flops(config: RunConfig, shape: DecoderConfig, width: int) -> float:
    """Of a training step: twice the forward pass for adapters (4ND), three times for all weights (6ND).

    With adapters the backward pass needs no gradient of the frozen weights. Recomputation is not counted
    (Chowdhery et al. 2022, appendix B, the definition of model FLOPs utilisation).
    """
    align, response = config.align, config.sample.max_new_tokens
    predicted = align.group_size * response
    forward = forward_flops(shape, align.prompts_per_step, width + predicted, predicted)
    return forward * (2 if align.lora is not None else 3)


def step_flops(config: RunConfig, shape: DecoderConfig, width: int) -> float:
    """What a training step really computes, recomputation and adapters included; to check the count by.

    The backward pass of adapters is one product a matrix, of all weights two. The layers' forward pass runs
    again in it, save its last product, whose result only the next layer read; attention once more inside that
    (``attend`` is its own checkpoint), and the head's chunks once more.
    """
    align, response = config.align, config.sample.max_new_tokens
    predicted = align.group_size * response
    length, sequences = width + predicted, align.prompts_per_step
    passes = 3 if align.lora is not None else 4
    matrices = 2 * length * (passes * layer_parameters(shape) - shape.hidden * shape.intermediate)
    attention = 5 * 4 * length**2 * shape.heads * shape.head_dim
    head = 2 * shape.vocabulary * shape.hidden * predicted * passes
    return sequences * (shape.layers * (matrices + attention) + head)
