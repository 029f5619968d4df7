"""Renders chat templates, as a process of its own: one JSON request a line in, one JSON answer a line out.

A chat template is a program of a model's folder. Jinja's sandbox keeps it from the machine, but not from
``10 ** 10 ** 8`` or ``'a' * 10 ** 12``, which no signal interrupts and no check foresees: the kernel limits
this process's memory for good, and its processor time for each request.

The environment is that of transformers' ``apply_chat_template``. Nothing of this package is imported.
"""

import contextlib
import json
import resource
import signal
import sys
from datetime import date
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 160 << 20  # bytes of address space, of which Python and Jinja take 40 MB
SECONDS = 0.3  # of processor time for a request; real templates take 0.0001, and 0.03 to compile


class _Generation(Extension):
    """``{% generation %}``, which marks what an assistant says."""

    tags = {"generation"}  # noqa: RUF012 Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


@lru_cache
def _compiled(template: str) -> Template:
    extensions = [_Generation, loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


def _answer(template: str, day: str, longest: int, values: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(template).render(strftime_now=date.fromisoformat(day).strftime, **values)
    except MemoryError:
        return {"refusal": "it takes too much memory"}
    except Exception as error:
        return {"refusal": " ".join(str(error).split())[:200] or type(error).__name__}
    if len(text) > longest:
        return {"refusal": f"it writes {len(text)} characters, and {longest} are the most for this dialogue"}
    return {"text": text}


def main() -> None:
    """Answer every request on standard input."""
    with contextlib.suppress(ValueError):  # macOS has no such limit, and says so of every number
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the caller answers
    for line in sys.stdin:
        # SIGPROF ends the process where it is, in C code too.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = json.dumps(_answer(**json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
