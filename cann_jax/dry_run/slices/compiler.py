"""The TPU compiler's answer to a traced program: its text and what it holds of a device's memory."""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from cann_jax.dry_run.slices.hlo import parse
from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Args:
        text: Its optimised HLO.
        arguments: Bytes held by its arguments, on one device.
        temporaries: Bytes of its temporaries.
        peak: Largest bytes in use at once; without machine code, arguments and temporaries.
    """

    text: str
    arguments: float
    temporaries: float
    peak: float


def compiled(traced: Any) -> Compiled:
    """Compile to machine code.

    Raises:
        InputError: it finds no place in a chip's memory.
    """
    with _told():
        program = traced.lower().compile()
    found = program.memory_analysis()
    return Compiled(
        program.as_text(),
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        found.peak_memory_in_bytes,
    )


def keep_dumps() -> str:
    """Before JAX starts: have the compiler write down what ``laid_out`` waits for; returns the folder."""
    folder = tempfile.mkdtemp(prefix="compile_check")
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    )
    return folder


def laid_out(traced: Any, folder: str) -> Compiled:
    """Compile until the program is optimised and has its place in memory.

    What follows is machine code: most of the time, and some copies more (485 GB moved became 582 for Llama-7B
    with adapters on v5e:4x4). The compiler cannot be stopped there, so it goes on in a thread that ends with
    the process.

    Args:
        traced: The only program that this process compiles.
        folder: From ``keep_dumps``.

    Raises:
        InputError: as ``compiled``.
    """
    failed: list[JaxRuntimeError] = []

    def compile_on() -> None:
        try:
            traced.lower().compile()
        except JaxRuntimeError as error:
            failed.append(error)

    threading.Thread(target=compile_on, daemon=True).start()
    while not (
        (text := _written(folder, "after_buffer_assignment")) and (held := _written(folder, "report"))
    ):
        time.sleep(0.2)
        with _told():
            if failed:
                raise failed[0]
    total = re.search(r"default \(color=0\)\nTotal bytes: (\d+)", held)
    assert total is not None
    arguments = _argument_bytes(text)
    return Compiled(text, arguments, float(total[1]) - arguments, float(total[1]))


def _written(folder: str, name: str) -> str:
    """What the compiler wrote under this name; empty while it writes or has not begun."""
    files = list(Path(folder).glob(f"*{name}.txt"))
    content = files[0].read_bytes() if files else b""
    time.sleep(0.5)
    return content.decode() if files and len(content) == files[0].stat().st_size else ""


def _argument_bytes(text: str) -> float:
    computations, entry = parse(text)
    return sum(each.size for each in computations[entry].instructions.values() if each.kind == "parameter")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the compiler says of a full memory, in one line."""
    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
        told = f" ({needed[1]} of {needed[2]})" if needed else ""
        raise InputError(
            f"the program does not fit a chip's memory{told}; use a larger slice, fewer prompts a step or "
            "more align.accumulation"
        ) from None
