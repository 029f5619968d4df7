"""Pickles of state dictionaries, carried out a step at a time: each takes the same time, and none runs code.

A pickle is a program. The ordinary unpickler calls whatever it names, and hashes whatever it makes a key of:
a tuple doubled 40 times, in 205 bytes, takes it years. Here keys are texts, names are looked up by the
caller, and any opcode that ``torch.save`` does not write is an error.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cann_jax.files.errors import shown


@dataclass
class _Machine:
    named: Callable[[str, str], Any]
    referenced: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, count: int) -> list[Any]:
        """Return the last values of the stack, and take them off it."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("a value is missing")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def marked(self) -> list[Any]:
        """Return the values behind the last mark, and take both off."""
        start = self.marks.pop()
        return self.top(len(self.stack) - start)

    def put(self, index: int) -> None:
        # In a dictionary: the ordinary unpickler's list is as long as the largest index, 16 GB for 2³⁰.
        self.memo[index] = self.stack[-1]

    def make_dict(self) -> None:
        items = self.marked()
        self.push({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError(f"keys in a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A text's hash is kept, and cannot be foreseen; numbers' and tuples' can be made to collide.
            if type(key) is not str:
                raise ValueError(f"the key {shown(key)}, which is not a text")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"values appended to a {type(target).__name__}")
        target.extend(items)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not a text")
        self.push(self.named(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError(f"a call of a {type(function).__name__}")
        self.push(function(*arguments))

    def build(self) -> None:
        """Drop the attributes of a mapping; nothing else has any, or a tensor's strides could be changed."""
        self.top(1)
        if not isinstance(self.stack[-1], dict):
            raise ValueError(f"attributes of a {type(self.stack[-1]).__name__}")


Step = Callable[[_Machine, Any], None]


def _each(names: str, step: Step) -> dict[str, Step]:
    return dict.fromkeys(names.split(), step)


# By the opcode's name; a step is given the opcode's argument.
_STEPS: dict[str, Step] = {
    **_each("PROTO FRAME STOP", lambda m, _: None),
    **_each("INT BININT BININT1 BININT2 LONG1 BINFLOAT", _Machine.push),
    **_each("UNICODE BINUNICODE SHORT_BINUNICODE", _Machine.push),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    **_each("PUT BINPUT LONG_BINPUT", _Machine.put),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    **_each("GET BINGET LONG_BINGET", lambda m, index: m.push(m.memo[index])),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.top(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.top(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.top(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.marked())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.marked()),
    "APPEND": lambda m, _: m.append(m.top(1)),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.make_dict(),
    "SETITEM": lambda m, _: m.set_items(m.top(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.top(2)),
    "BINPERSID": lambda m, _: m.push(m.referenced(*m.top(1))),
    "REDUCE": lambda m, _: m.call(*m.top(2)),
    "BUILD": lambda m, _: m.build(),
}


def built(data: bytes, named: Callable[[str, str], Any], referenced: Callable[[Any], Any]) -> Any:
    """Return what a pickle builds.

    Args:
        data: The pickle.
        named: What the name of a module and of something in it stands for.
        referenced: What a persistent reference stands for.

    Raises:
        ValueError: It has an opcode or a key that no state dictionary's has, or is not whole.
    """
    machine = _Machine(named, referenced)
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _STEPS:
            raise ValueError(f"the opcode {opcode.name}, which no state dictionary has")
        _STEPS[opcode.name](machine, argument)
    return machine.top(1)[0]
