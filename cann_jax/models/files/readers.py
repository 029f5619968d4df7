"""Tensors that stay in their file until they are read."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Index = tuple[slice, ...]  # of the leading dimensions; () is everything


class Reader(NamedTuple):
    """A tensor in a file; calling it reads it, or the part of it at an index."""

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]

    def __call__(self, index: Index = ()) -> np.ndarray:
        """Return the tensor at ``index``."""
        return self.read(index)


Readers = dict[str, Reader]
