"""The formats in which an aligned model leaves a run."""

from typing import Annotated, Literal, get_args

from cann_jax.config.ranges import Must

Format = Literal["adapter", "merged", "gguf"]
FORMATS: tuple[Format, ...] = get_args(Format)

Formats = Annotated[
    tuple[Format, ...], Must("a list that names each format once", lambda t: len({*t}) == len(t))
]
