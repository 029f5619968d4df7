"""Ask a judge what is not on disk yet, and count what it says."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cann_jax.files.errors import InputError, shown
from cann_jax.judging.replies import Answer, Asked, Book, Reply, read_answer
from cann_jax.scorers.question import Template

NONSENSE = 20  # answers of which none can be read, after which no more is paid for
UNREAD = ("malformed", "cut off")


class Judge(Protocol):
    """Who answers: an endpoint, or a model read from files."""

    @property
    def identity(self) -> dict[str, Any]:
        """What its replies depend on besides the question."""

    @property
    def tokenizer(self) -> Any:
        """What it reads texts with; None where that is not known."""

    def ask(self, asked: Mapping[str, Asked], keep: Callable[[str, Reply], None]) -> None:
        """Answer named questions of one template, and hand each reply to ``keep`` as it comes."""


def answers_to(judge: Judge, book: Book, asked: Sequence[Asked], key: str) -> list[Answer]:
    """Return an answer to each question, from the book or from the judge, whose replies the book then has.

    Raises:
        InputError: As ``Endpoint.ask``; or the judge answers nonsense, or nothing at all.
    """
    if not asked:
        return []
    names = [book.name(each) for each in asked]
    written = {name: book.read(name) for name in dict.fromkeys(names) if name in book.names}
    found = {name: reply for name, reply in written.items() if reply.lasts}
    template = asked[0].template
    missing = {name: each for name, each in zip(names, asked, strict=True) if name not in found}

    def keep(name: str, reply: Reply) -> None:
        if reply.lasts:
            book.keep(name, reply)
        found[name] = reply
        check(reply)

    with _saying_what_is_kept(book):
        check = _Sense(key, template, min(NONSENSE, len({*names})), found.values())
        if found and missing:
            print(f"{key}: {len(found)} answers were there before, {len(missing)} are asked for", flush=True)
        if missing:
            judge.ask(missing, keep)
        failures = [found[name].failure for name in names]
        if all(failures):
            raise InputError(
                f"{key}: none of {len(names)} questions had a reply, the last {failures[-1]}; see to the "
                "judge, or give it questions that it can read, and start again"
            )
    return [read_answer(found[name], template) for name in names]


@contextlib.contextmanager
def _saying_what_is_kept(book: Book) -> Iterator[None]:
    """Add to an error that the answers so far are kept, where there are any."""
    try:
        yield
    except InputError as error:
        if not book.names:
            raise
        raise type(error)(f"{error}; the answers so far are kept") from None


class _Sense:
    """Raises InputError when so many answers, with those ``kept`` from before, are there and none is read."""

    def __init__(self, key: str, template: Template, most: int, kept: Iterable[Reply]) -> None:
        self.key, self.template, self.most = key, template, most
        self.counts: Counter[str] = Counter()
        self.last = ""
        for reply in kept:  # all of them, in whatever order they are read, before one is judged
            self._add(reply)
        self._check()

    def __call__(self, reply: Reply) -> None:
        self._add(reply)
        self._check()

    def _add(self, reply: Reply) -> None:
        status = read_answer(reply, self.template).status
        self.counts[status] += 1
        if status in UNREAD:
            self.last = reply.text

    def _check(self) -> None:
        unread = sum(self.counts[status] for status in UNREAD)
        if unread >= self.most and not self.counts["answered"]:
            raise InputError(
                f"{self.key}: none of the judge's {unread} answers is one of "
                f"{', '.join(self.template.answers)}; the last was {shown(self.last)}; use another judge or "
                "template, or raise judge.answer_tokens where they were cut off"
            )
