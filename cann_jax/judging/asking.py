"""Ask a judge what is not on disk yet, and count what it says."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cann_jax.files.errors import InputError, shown
from cann_jax.judging.replies import Answer, Asked, Book, Reply, read_answer
from cann_jax.scorers.question import Template

NONSENSE = 20  # answers of which none can be read, after which no more is paid for


class Judge(Protocol):
    """Who answers: an endpoint, or a model read from files."""

    @property
    def identity(self) -> dict[str, Any]:
        """What its replies depend on besides the question."""

    def ask(self, asked: Mapping[str, Asked], keep: Callable[[str, Reply], None]) -> None:
        """Answer named questions of one template, and hand each reply to ``keep`` as it comes."""


def answers_to(judge: Judge, book: Book, asked: Sequence[Asked], key: str) -> list[Answer]:
    """Return an answer to each question, from the book or from the judge, whose replies the book then has.

    Raises:
        InputError: As ``Endpoint.ask``; or the judge answers nonsense.
    """
    names = [book.name(each) for each in asked]
    found = {name: book.read(name) for name in {*names} & book.names}
    template = asked[0].template
    check = _Sense(key, template, min(NONSENSE, len({*names})))
    for reply in found.values():
        check(reply)

    def keep(name: str, reply: Reply) -> None:
        if reply.failure is None:
            book.keep(name, reply)
        found[name] = reply
        check(reply)

    missing = {name: each for name, each in zip(names, asked, strict=True) if name not in found}
    if found and missing:
        print(f"{key}: {len(found)} answers were there before, {len(missing)} are asked for", flush=True)
    if missing:
        judge.ask(missing, keep)
    return [read_answer(found[name], template) for name in names]


class _Sense:
    """Raises InputError when so many answers have come and none can be read."""

    def __init__(self, key: str, template: Template, most: int) -> None:
        self.key, self.template, self.most = key, template, most
        self.counts: Counter[str] = Counter()

    def __call__(self, reply: Reply) -> None:
        self.counts[read_answer(reply, self.template).status] += 1
        unread = self.counts["malformed"] + self.counts["cut off"]
        allowed = ", ".join(self.template.answers)
        if unread >= self.most and unread == self.counts.total():
            raise InputError(
                f"{self.key}: none of the judge's {unread} answers is one of {allowed}; "
                f"the last was {shown(reply.text)}; use another judge or template, or raise "
                "judge.answer_tokens where they were cut off; the answers so far are kept"
            )
