"""Count what one execution of a compiled program moves on one device, to HBM and between devices."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from cann_jax_tools.bytes_moved import is_collective, moved
from cann_jax_tools.hlo import Computation, Computations, Instruction, parse, runs_of


@dataclass(frozen=True)
class Traffic:
    """What one execution of a program moves, on one device.

    Args:
        memory: Bytes to and from HBM.
        received: Bytes received from other devices, by kind of collective.
        count: How often each kind runs.
    """

    memory: float
    received: dict[str, float]
    count: dict[str, float]


@dataclass(frozen=True)
class Collective:
    """One collective.

    Args:
        kind: Opcode, for example ``all-gather``.
        received: Bytes that a device receives each time.
        memory: Bytes of its operands and results.
        times: How often it runs.
    """

    kind: str
    received: float
    memory: float
    times: float


def traffic(text: str) -> Traffic:
    """Return the traffic of a compiled module, from its text."""
    computations, entry = parse(text)
    runs = runs_of(computations, entry)
    memory = sum(
        times * moved(instruction, computations[name], computations)
        for name, times in runs.items()
        for instruction in computations[name].instructions.values()
    )
    received: defaultdict[str, float] = defaultdict(float)
    count: defaultdict[str, float] = defaultdict(float)
    for each in collectives(computations, runs):
        memory += each.memory * each.times
        received[each.kind] += each.received * each.times
        count[each.kind] += each.times
    return Traffic(memory, dict(received), dict(count))


def collectives(computations: Computations, runs: dict[str, float]) -> Iterator[Collective]:
    """Yield every collective once.

    The compiler splits a collective into pieces that overlap with other work and share its channel; the
    largest piece stands for the whole, as often as the computation runs that its fusion belongs to.
    """
    found: dict[tuple[str, str, float], Collective] = {}
    for name, times in _owners(computations, runs).items():
        inside = computations[name]
        for instruction in filter(is_collective, inside.instructions.values()):
            one = _collective(instruction, inside, times)
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            key = (one.kind, channel[1] if channel else instruction.name, times)
            if key not in found or found[key].received < one.received:
                found[key] = one
    yield from found.values()


def _owners(computations: Computations, runs: dict[str, float]) -> dict[str, float]:
    """Return how often each computation runs, those inside fusions and asynchronous wrappers included."""
    owners = dict(runs)

    def visit(name: str, times: float) -> None:
        for instruction in computations[name].instructions.values():
            if instruction.kind in ("while", "call", "conditional"):
                continue
            for called in instruction.called:
                if owners.get(called, 0) < times and called in computations:
                    owners[called] = times
                    visit(called, times)

    for name, times in runs.items():
        visit(name, times)
    return owners


def _collective(instruction: Instruction, inside: Computation, times: float) -> Collective:
    """Return a collective with the bytes that it receives as a ring over the n devices of a group.

    An all-gather receives (n−1)/n of its result and an all-reduce twice that; a reduce-scatter receives its
    result n−1 times.
    """
    kind, group = instruction.kind.removesuffix("-start"), group_size(instruction.rest)
    size = sum(array.size for array in instruction.results)
    operands = [
        inside.instructions[name].size for name in instruction.operands if name in inside.instructions
    ]
    part = (group - 1) / group if group > 1 else 1.0
    received = {
        "all-reduce": 2 * size * part,
        "reduce-scatter": size * max(group - 1, 1),
        "collective-permute": size,
    }.get(kind, size * part)
    return Collective(kind, received, size + sum(operands), times)


def group_size(rest: str) -> int:
    """Return the devices in a group, given as a list of lists, as [groups,size], or by named mesh axes."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]) if axis in sizes)
    return 0
