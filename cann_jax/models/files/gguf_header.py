"""Check of a GGUF file's header, before the gguf library makes as many arrays as it says.

An array of 2⁴⁰ numbers that no file holds had that library fill the memory.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

# By code in the file: bytes of a number.
NUMBERS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, ARRAY = 8, 9
# The most that is read: 20 times what Llama 3's vocabulary and merges need, for the library makes an object
# of 200 bytes of each; and what 1000 layers need.
VALUES, KEYS, TENSORS, DIMENSIONS = 1 << 21, 1 << 12, 1 << 15, 4
LONGEST = 1 << 12  # bytes of a text in an array; the library takes 85 for each of a special token's


@dataclass
class _Header:
    data: mmap.mmap
    order: str = "<"
    at: int = 0
    values: int = 0  # in arrays so far

    def number(self, code: str) -> int:
        value: int = struct.unpack_from(self.order + code, self.data, self.at)[0]
        self.at += struct.calcsize(self.order + code)
        return value

    def count(self, most: int, what: str, code: str = "Q") -> int:
        value = self.number(code)
        if value > most:
            raise ValueError(f"{value} {what}, where {most} are the most")
        return value

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError(f"its header goes to byte {self.at} of {len(self.data)}")

    def skip_text(self, most: int | None = None) -> None:
        self.skip(self.number("Q") if most is None else self.count(most, "bytes of a text in an array"))

    def skip_value(self, kind: int) -> None:
        if kind == ARRAY:
            self.skip_array()
        elif kind == TEXT:
            self.skip_text()
        elif kind in NUMBERS:
            self.skip(NUMBERS[kind])
        else:
            raise ValueError(f"a value of the unknown kind {kind}")

    def skip_array(self) -> None:
        kind, count = self.number("I"), self.count(VALUES - self.values, "further values in arrays")
        self.values += count
        if kind in NUMBERS:
            self.skip(NUMBERS[kind] * count)
        elif kind == TEXT:
            for _ in range(count):
                self.skip_text(LONGEST)
        else:
            raise ValueError(f"an array of values of kind {kind}")

    def skip_tensor(self) -> None:
        self.skip_text()
        dimensions = self.count(DIMENSIONS, "dimensions of a tensor", "I")
        self.skip(8 * dimensions + 4 + 8)  # its type and place follow


def check_header(path: Path) -> None:
    """Check that all that a header counts is there, and no more than a model needs.

    Raises:
        ValueError, struct.error: It is not so.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _Header(data)
        header.skip(4)  # the library checks these and the version
        if header.number("I") & 0xFFFF == 0:
            header.order = ">"
        tensors, keys = header.count(TENSORS, "tensors"), header.count(KEYS, "keys")
        for _ in range(keys):
            header.skip_text()
            header.skip_value(header.number("I"))
        for _ in range(tensors):
            header.skip_tensor()
