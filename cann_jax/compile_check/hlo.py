"""What a compiled program does each time it runs, from its HLO text: bytes moved and collectives.

XLA's own cost analysis counts the body of a loop once. Here every instruction counts as often as it runs: the
trip counts of the loops around it are read from their conditions and multiplied.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
# Names for what lies elsewhere already; nothing moves.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional"}
_FREE |= {"after-all", "partition-id", "iota", "opt-barrier"}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z\-]*[a-z0-9]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+|pred)\[([0-9,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|body|to_apply|called_computations)=\{?%([\w.\-]+)")


@dataclass
class Instruction:
    name: str
    shape: str
    kind: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition("), ")[0])


@dataclass
class Computation:
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(each for each in self.instructions.values() if each.is_root)


@dataclass(frozen=True)
class Traffic:
    """What one run of a program moves, on one device.

    Args:
        memory: Bytes to and from HBM.
        received: Bytes received from other devices, by kind of collective.
        count: How often each kind runs.
    """

    memory: float
    received: dict[str, float]
    count: dict[str, float]


def traffic(text: str) -> Traffic:
    """Read a compiled module's text."""
    computations, entry = parse(text)
    runs = _runs(computations, entry)
    memory = sum(
        times * _moved(instruction, computations, name)
        for name, times in runs.items()
        for instruction in computations[name].instructions.values()
    )
    received: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for kind, size, times in _collectives(computations, runs):
        received[kind] += size * times
        count[kind] += times
    return Traffic(memory, dict(received), dict(count))


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Computations by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations[found[1]] = Computation()
            entry = found[1] if line.startswith("ENTRY") else entry
        elif found := _INSTRUCTION.match(line):
            root = line.lstrip().startswith("ROOT")
            current.instructions[found[1]] = Instruction(found[1], found[2], found[3], found[4], root)
    return computations, entry


def _runs(computations: dict[str, Computation], entry: str) -> dict[str, float]:
    """How often each computation that moves bytes runs: the entry, bodies of loops, called computations."""
    runs: defaultdict[str, float] = defaultdict(float)

    def visit(name: str, times: float) -> None:
        runs[name] += times
        for instruction in computations[name].instructions.values():
            if instruction.kind in ("while", "call", "conditional"):
                trips = trip_count(instruction, computations) if instruction.kind == "while" else 1
                for called in _CALLED.findall(instruction.rest):
                    visit(called, times * trips)

    visit(entry, 1)
    return dict(runs)


def trip_count(loop: Instruction, computations: dict[str, Computation]) -> int:
    """From the one constant that the loop's condition compares with; 1 where the end depends on data."""
    condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
    assert condition is not None
    limits = [
        int(each.rest.partition(")")[0])
        for each in computations[condition[1]].instructions.values()
        if each.kind == "constant" and re.match(r"[su]32\[\]", each.shape)
    ]
    return max(limits, default=1)


def size_of(shape: str, everywhere: bool = False) -> float:
    """Bytes of all arrays in a shape's text that lie in HBM; S(n) marks other memories."""
    total = 0
    for kind, dimensions, layout in _ARRAY.findall(shape):
        if everywhere or not re.search(r"S\([1-9]", layout):
            total += _BYTES.get(kind, 1) * math.prod(int(size) for size in dimensions.split(",") if size)
    return total


def _moved(instruction: Instruction, computations: dict[str, Computation], inside: str) -> float:
    if instruction.kind in _FREE or instruction.kind.endswith(("-done", "-update")):
        return 0
    here = computations[inside].instructions
    called = _CALLED.search(instruction.rest)
    fused = computations.get(called[1]) if called and instruction.kind == "fusion" else None
    total = _written(instruction, fused)
    for index, name in enumerate(instruction.operands):
        if name in here:
            total += _read(here[name].shape, index, instruction, fused)
    return total


def _written(instruction: Instruction, fused: Computation | None) -> float:
    """An update in place writes the update alone."""
    root = instruction if fused is None else fused.root
    if root.kind == "dynamic-update-slice" and fused is not None and len(root.operands) > 1:
        return min(size_of(fused.instructions[root.operands[1]].shape, True), size_of(instruction.shape))
    return size_of(instruction.shape)


def _read(shape: str, index: int, instruction: Instruction, fused: Computation | None) -> float:
    """What is sliced, in the instruction or everywhere inside a fusion, is read as far as the slice goes."""
    if instruction.kind in ("dynamic-slice", "gather", "slice") and index == 0:
        return min(size_of(shape), size_of(instruction.shape, True))
    if fused is None:
        return size_of(shape)
    parameter = next(
        (
            each
            for each in fused.instructions.values()
            if each.kind == "parameter" and each.rest.startswith(f"{index})")
        ),
        None,
    )
    users = [each for each in fused.instructions.values() if parameter and parameter.name in each.operands]
    if users and all(_takes_a_part(each, parameter.name) for each in users):
        return min(
            size_of(shape),
            sum(size_of(each.shape, True) for each in users if each.kind != "dynamic-update-slice"),
        )
    return size_of(shape)


def _takes_a_part(user: Instruction, name: str) -> bool:
    return (
        user.kind in ("dynamic-slice", "slice", "gather", "dynamic-update-slice") and user.operands[0] == name
    )


def _collectives(
    computations: dict[str, Computation], runs: dict[str, float]
) -> Iterator[tuple[str, float, float]]:
    """(kind, bytes received, runs) of each collective.

    The compiler splits one into pieces that overlap with other work and share its channel; the largest
    piece stands for the whole, as often as the computation runs that its fusion belongs to.
    """
    owners = _owners(computations, runs)
    found: dict[tuple[str, str, float], float] = {}
    for name, times in owners.items():
        for instruction in computations[name].instructions.values():
            kind = next((k for k in COLLECTIVES if instruction.kind in (k, f"{k}-start")), None)
            if kind is None:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            key = (kind, channel[1] if channel else instruction.name, times)
            found[key] = max(found.get(key, 0), received_bytes(kind, instruction))
    for (kind, _, times), size in found.items():
        yield kind, size, times


def _owners(computations: dict[str, Computation], runs: dict[str, float]) -> dict[str, float]:
    """Computations that hold collectives with the runs of what calls them, fusions and async wrappers too."""
    owners = dict(runs)

    def visit(name: str, times: float) -> None:
        for instruction in computations[name].instructions.values():
            if instruction.kind in ("while", "call", "conditional"):
                continue
            for called in _CALLED.findall(instruction.rest):
                if owners.get(called, 0) < times and called in computations:
                    owners[called] = times
                    visit(called, times)

    for name, times in runs.items():
        visit(name, times)
    return owners


def received_bytes(kind: str, instruction: Instruction) -> float:
    """Bytes that one device must receive, by a ring over the n devices of a group.

    Of the result (of -start operations, a tuple of operand and result: of the larger) an all-gather receives
    (n−1)/n, an all-reduce twice that; a reduce-scatter receives its result n−1 times.
    """
    arrays = [size_of(f"{k}[{d}]", True) for k, d, _ in _ARRAY.findall(instruction.shape)]
    size, group = max(arrays, default=0), group_size(instruction.rest)
    part = (group - 1) / group if group > 1 else 1.0
    if kind == "all-reduce":
        return 2 * size * part
    if kind == "reduce-scatter":
        return min(arrays, default=0) * max(group - 1, 1)
    return size if kind == "collective-permute" else size * part


def group_size(rest: str) -> int:
    """Devices in a group: from a list of lists, the compact form [groups,size], or named mesh axes."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]) if axis in sizes)
    return 0
