"""Read tables from the arrays of an npz archive."""

import dataclasses

import numpy as np
import pyarrow as pa

from cann_jax.analysis.columns import hashes, rounded_off
from cann_jax.analysis.faults import FirstFault
from cann_jax.analysis.flags import DualFlags
from cann_jax.analysis.raw_table import RawTable, check_whole, larger_is_better
from cann_jax.analysis.table_layout import feature_columns, require
from cann_jax.analysis.wide_table import WideRows, finish_wide
from cann_jax.files.errors import InputError


class ArrayTable:
    """The arrays of an npz archive."""

    def __init__(self, path: str, arrays: dict[str, np.ndarray], flags: DualFlags, wanted: list[str]) -> None:
        self.path, self.flags = path, flags
        named = feature_columns(path, arrays, flags, wanted)
        self.features = arrays.pop(named[0]) if named else None
        self.mask = arrays.pop("mask", None)
        self.arrays = _unstacked(path, arrays)
        given = [flags.prompt_weights, *flags.groups]
        require(path, [flags.reward, *wanted, *(name for name in given if name)], self.arrays, flags)
        for flag, usual in (("prompt", "prompt"), ("response", "response")):
            if getattr(flags, flag) != usual:
                raise InputError(f"--{flag}: an npz archive has no such column; leave the flag out")
        self.shape = self.arrays[flags.reward].shape
        others = [name for name, values in self.arrays.items() if values.ndim == 2 and name != flags.reward]
        self.names = [flags.reward, *(wanted or others)]

    def read(self) -> RawTable:
        """Return all of it; see ``Source``."""
        if len(self.shape) != 2 or 0 in self.shape:
            what = f"{self.flags.reward} has shape {self.shape}"
            raise InputError(f"{self.path}: {what}; give (prompts, responses), neither of them 0")
        scores = {name: self._numbers(name, self.shape) for name in self.names}
        weights = self.flags.prompt_weights
        columns = self.flags.groups or (("group",) if "group" in self.arrays else ())
        rows = WideRows(
            number=np.arange(1, self.shape[0] + 1),
            scores=scores,
            rest={name: self._rest(name, values) for name, values in scores.items()},
            mask=self._responses(),
            groups={name: self._labels(name) for name in columns},
            weights=None if weights is None else self._numbers(weights, self.shape[:1]),
            names=self._names(),
        )
        found = finish_wide(FirstFault(self.path, whole=True), rows, self.flags.drop_missing)
        check_whole(self.path, found.mask.any(), found.precision, found.names)
        return dataclasses.replace(larger_is_better(found, self.flags.cost), features=self.features)

    def _numbers(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = self.arrays[name]
        if values.shape != shape or values.dtype.kind not in "fiub":
            given = f"{values.dtype} {values.shape}"
            raise InputError(f"{self.path}: {name} is {given}; give numbers of shape {shape}")
        return values.astype(np.float64)

    def _rest(self, name: str, values: np.ndarray) -> np.ndarray | None:
        """Return what float64 leaves out of an array of whole numbers; None where it keeps all."""
        given = self.arrays[name]
        if given.dtype.kind not in "iu":
            return None
        rest = rounded_off(pa.chunked_array([pa.array(given.ravel())]), values.ravel())
        return None if rest is None else rest.reshape(values.shape)

    def _names(self) -> np.ndarray | None:
        """Return a hash of each prompt, where the archive has an array of them."""
        prompts = self.arrays.get("prompt", np.zeros(0))
        named = prompts.shape == self.shape[:1] and prompts.dtype.kind in "iuU"
        return hashes(pa.array(prompts)) if named else None

    def _responses(self) -> np.ndarray:
        if self.mask is None:
            return np.ones(self.shape, bool)
        if self.mask.shape != self.shape or not np.isin(self.mask, (0, 1)).all():
            given = f"{self.mask.dtype} {self.mask.shape}"
            raise InputError(f"{self.path}: mask is {given}; give True or False in shape {self.shape}")
        return self.mask.astype(bool)

    def _labels(self, name: str) -> np.ndarray:
        values = self.arrays[name]
        if values.shape != self.shape[:1] or values.dtype.kind not in "fiubU":
            given = f"{values.dtype} {values.shape}"
            raise InputError(
                f"{self.path}: {name} is {given}; give a group for each of the {self.shape[0]} prompts"
            )
        if values.dtype.kind == "b":
            return values
        return np.array([None if value != value else str(value) for value in values.tolist()], object)


def _unstacked(path: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with ``constraints (N, K, m)`` taken apart under ``names (m,)``."""
    if "constraints" not in arrays or arrays["constraints"].ndim != 3:
        return arrays
    stacked = arrays.pop("constraints")
    names = arrays.pop("names", np.arange(stacked.shape[-1])).astype(str).ravel().tolist()
    if len(names) != stacked.shape[-1]:
        raise InputError(f"{path}: {stacked.shape[-1]} constraints, but {len(names)} names; give one each")
    for name in names:
        if name in arrays or names.count(name) > 1:
            raise InputError(f"{path}: two arrays are named {name!r}; rename one")
    return arrays | {name: stacked[..., j] for j, name in enumerate(names)}
