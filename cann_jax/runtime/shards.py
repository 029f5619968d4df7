"""Shards of a stage's work: files that each hold a range of prompts, by which they are named.

What is finished thus counts whatever the size of the batches is.
"""

import itertools
import re
from collections.abc import Sequence

from etils import epath

from cann_jax.files.atomic import DIGEST, is_whole
from cann_jax.files.errors import InputError
from cann_jax.runtime.distributed import agreed, barrier, is_first


def shard_path(folder: epath.PathLike, pattern: str, prompts: range) -> epath.Path:
    """Return the path of a shard, ``folder/responses-000064-000128.parquet`` for ``responses-{}.parquet``."""
    return epath.Path(folder) / pattern.format(f"{prompts.start:06d}-{prompts.stop:06d}")


def shards_in(folder: epath.PathLike, pattern: str) -> list[range]:
    """Return the ranges of prompts in the shards of a folder, in order.

    Raises:
        InputError: Two shards hold the same prompt.
    """
    before, after = map(re.escape, pattern.split("{}"))
    folder = epath.Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    found = [re.fullmatch(rf"{before}(\d+)-(\d+){after}", name) for name in names]
    ranges = in_order([range(int(each[1]), int(each[2])) for each in found if each])
    for first, second in itertools.pairwise(ranges):
        if second.start < first.stop:
            both = " and ".join(str(shard_path(folder, pattern, each)) for each in (first, second))
            raise InputError(f"{both} hold the same prompts; delete both and start again")
    return ranges


def finished_shards(folder: epath.PathLike, patterns: Sequence[str], total: int) -> list[range]:
    """Return the ranges of prompts, of ``total``, that have a whole shard of every pattern, in order.

    All processes get process 0's. A shard without the others, or that was damaged, is removed: its prompts
    may come to lie in shards of other ranges.
    """
    by_pattern = {pattern: set(shards_in(folder, pattern)) for pattern in patterns}
    complete = set.intersection(*by_pattern.values())
    if is_first():  # the others need not read what they would not be asked about
        complete = {
            each for each in complete if all([is_whole(shard_path(folder, p, each)) for p in patterns])
        }
    starts, stops = ({getattr(each, end) for each in complete} for end in ("start", "stop"))
    numbers = range(total + 1)
    flags = iter(agreed([n in starts for n in numbers] + [n in stops for n in numbers]))
    agreed_starts, agreed_stops = ([n for n in numbers if next(flags)] for _ in range(2))
    if is_first():
        for pattern, found in by_pattern.items():
            for each in found - complete:
                shard = shard_path(folder, pattern, each)
                for path in (shard, epath.Path(f"{shard}{DIGEST}")):
                    path.unlink(missing_ok=True)
    barrier("shards listed")
    return [range(*ends) for ends in zip(agreed_starts, agreed_stops, strict=True)]


def unfinished(finished: Sequence[range], total: int, size: int) -> list[range]:
    """Return the ranges of at most ``size`` prompts, of ``total``, that the finished ones leave."""
    starts = [0, *(each.stop for each in finished)]
    stops = [*(each.start for each in finished), total]
    return [
        range(start, min(start + size, stop))
        for first, stop in zip(starts, stops, strict=True)
        for start in range(first, stop, size)
    ]


def in_order(*shards: Sequence[range]) -> list[range]:
    """Return the ranges of all lists by their first prompt."""
    return sorted((each for some in shards for each in some), key=lambda each: each.start)
