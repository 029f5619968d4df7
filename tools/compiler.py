"""Compile traced programs with the TPU compiler: the optimised text and the memory of one device."""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cann_jax_tools.hlo import parse
from jax.errors import JaxRuntimeError

from cann_jax.files.errors import InputError


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Args:
        text: Optimised HLO.
        arguments: Bytes of the arguments on one device.
        temporaries: Bytes of the temporaries.
        peak: Peak of the bytes in use; without machine code, arguments plus temporaries.
    """

    text: str
    arguments: float
    temporaries: float
    peak: float


def compiled(traced: Any) -> Compiled:
    """Compile to machine code.

    Raises:
        InputError: The program does not fit a chip's memory.
    """
    with _memory_errors():
        program = traced.lower().compile()
    found = program.memory_analysis()
    return Compiled(
        program.as_text(),
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        found.peak_memory_in_bytes,
    )


@contextlib.contextmanager
def dumped() -> Iterator[str]:
    """Yield the folder to which the compiler writes what ``laid_out`` waits for; enter before JAX starts."""
    folder = tempfile.mkdtemp(prefix="compile_check")
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the compiler may still be writing


def laid_out(traced: Any, folder: str) -> Compiled:
    """Compile until the program is optimised and laid out in memory.

    Machine code would follow, which takes most of the time and adds some copies (485 GB moved became 582 for
    Llama-7B with adapters on v5e:4x4). The compiler cannot be stopped there, so it continues in a thread that
    ends with the process.

    Args:
        traced: The only program that this process compiles.
        folder: That of ``dumped``.

    Raises:
        InputError: The program does not fit a chip's memory.
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
        with _memory_errors():
            if failed:
                raise failed[0]
    total = re.search(r"default \(color=0\)\nTotal bytes: (\d+)", held)
    assert total is not None
    arguments = _argument_bytes(text)
    return Compiled(text, arguments, float(total[1]) - arguments, float(total[1]))


def _written(folder: str, name: str) -> str:
    """Return what the compiler wrote to the file of this name; empty until it is complete."""
    files = list(Path(folder).glob(f"*{name}.txt"))
    content = files[0].read_bytes() if files else b""
    time.sleep(0.5)
    return content.decode() if files and len(content) == files[0].stat().st_size else ""


def _argument_bytes(text: str) -> float:
    computations, entry = parse(text)
    return sum(each.size for each in computations[entry].instructions.values() if each.kind == "parameter")


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn the compiler's report that memory is exhausted into one line."""
    try:
        yield
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
        used = f" ({needed[1]} of {needed[2]})" if needed else ""
        raise InputError(
            f"the program does not fit a chip's memory{used}; use a larger slice, fewer prompts per step or "
            "more align.accumulation"
        ) from None
