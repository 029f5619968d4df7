"""Parse the HLO text of a compiled program: its computations, and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as often as it runs: the
trip counts of the loops around it are read from their conditions and multiplied.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z\-]*[a-z0-9]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+|pred)\[([0-9,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|called_computations|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)


@dataclass(frozen=True)
class Array:
    """One array of a shape.

    Args:
        size: Bytes.
        in_hbm: Whether the array is in HBM; S(n) in its layout marks other memories.
    """

    size: float
    in_hbm: bool


@dataclass
class Instruction:
    """One instruction.

    Args:
        name: Name of its result.
        shape: Shape of its result, as HLO writes it.
        kind: Opcode, for example ``all-gather``.
        rest: The text behind the opcode: operands and attributes.
        is_root: Whether its result is that of the computation.
    """

    name: str
    shape: str
    kind: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition("), ")[0])

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its shape, tuples flattened."""
        return [
            Array(
                _BYTES.get(kind, 1) * math.prod(int(size) for size in dimensions.split(",") if size),
                not re.search(r"S\([1-9]", layout),
            )
            for kind, dimensions, layout in _ARRAY.findall(self.shape)
        ]

    @property
    def size(self) -> float:
        """Bytes of all its arrays, in whichever memory."""
        return sum(array.size for array in self.arrays)

    @property
    def results(self) -> list[Array]:
        """The arrays that it makes.

        The shape of an asynchronous operation's start names its operands too, a copy's behind its result;
        they are left out.
        """
        if not self.kind.endswith("-start"):
            return self.arrays
        return (
            self.arrays[:1] if self.kind == "copy-start" else self.arrays[len(self.operands) :] or self.arrays
        )

    @property
    def called(self) -> list[str]:
        """Computations that it calls: all branches, but not the condition of a loop."""
        return [name for found in _CALLED.findall(self.rest) for name in re.findall(r"%([\w.\-]+)", found)]


@dataclass
class Computation:
    """A computation, its instructions by name."""

    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction whose result is that of the computation."""
        return next(each for each in self.instructions.values() if each.is_root)

    def parameter(self, index: int) -> Instruction:
        """Return the parameter at a position."""
        return next(
            each
            for each in self.instructions.values()
            if each.kind == "parameter" and each.rest.startswith(f"{index})")
        )

    def users(self, name: str) -> list[Instruction]:
        """Return the instructions that have ``name`` as an operand."""
        return [each for each in self.instructions.values() if name in each.operands]


Computations = dict[str, Computation]


def parse(text: str) -> tuple[Computations, str]:
    """Return the computations by name, and the name of the entry computation."""
    computations: Computations = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations[found[1]] = Computation()
            entry = found[1] if line.startswith("ENTRY") else entry
        elif found := _INSTRUCTION.match(line):
            root = line.lstrip().startswith("ROOT")
            current.instructions[found[1]] = Instruction(found[1], found[2], found[3], found[4], root)
    return computations, entry


def runs_of(computations: Computations, entry: str) -> dict[str, float]:
    """Return how often each computation that moves bytes runs: the entry, bodies of loops, and calls."""
    runs: defaultdict[str, float] = defaultdict(float)

    def visit(name: str, times: float) -> None:
        runs[name] += times
        for instruction in computations[name].instructions.values():
            if instruction.kind in ("while", "call", "conditional"):
                trips = trip_count(instruction, computations) if instruction.kind == "while" else 1
                for called in instruction.called:
                    visit(called, times * trips)

    visit(entry, 1)
    return dict(runs)


def trip_count(loop: Instruction, computations: Computations) -> int:
    """Return the constant that a loop's condition compares with; 1 if its end depends on data."""
    condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
    assert condition is not None
    limits = [
        int(each.rest.partition(")")[0])
        for each in computations[condition[1]].instructions.values()
        if each.kind == "constant" and re.match(r"[su]32\[\]", each.shape)
    ]
    return max(limits, default=1)
