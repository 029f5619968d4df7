"""Replies of a judge: what they say, and their copies on disk, by which no question is paid for twice."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from etils import epath

from cann_jax.data.prompts import Turn
from cann_jax.files.atomic import read_json, write_json
from cann_jax.files.hashes import fingerprint_json
from cann_jax.scorers.question import Template

LONGEST = 1000  # characters of a reply that are kept; no answer is as long
# A verdict may be put in quotation marks or bold, or end in a full stop; what else surrounds it is malformed.
AROUND = " \t\r\n.*_`'\"“”‘’[]()"
REFUSAL = re.compile(
    r"\W*(i['’]?m (very )?sorry|i am (very )?sorry|sorry|i can(no|['’])?t|i am unable|i won['’]t)\b", re.I
)

Status = Literal[
    "answered", "malformed", "cut off", "refused", "timed out", "rate limited", "failed", "too long"
]


class Asked(NamedTuple):
    """A question as it is put: its template, and the dialogue made of it."""

    template: Template
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        text: What the judge wrote.
        ending: How it ended, if not by an answer: ``cut off`` at the limit of tokens, ``refused``, or
            ``malformed``, no completion at all, whatever its text.
        failure: Why nothing came back; ``text`` is then what the server said of it.
    """

    text: str = ""
    ending: Literal["cut off", "refused", "malformed"] | None = None
    failure: Literal["timed out", "rate limited", "failed", "too long"] | None = None

    @property
    def lasts(self) -> bool:
        """Whether it answers the question for good; other replies are not kept, and it is asked again."""
        return self.failure is None and self.ending != "malformed"


class Answer(NamedTuple):
    """A reply as it counts: the index of the answer that it gives, None where it is excluded."""

    status: Status
    choice: int | None
    text: str


def read_answer(reply: Reply, template: Template) -> Answer:
    """Return which of a template's answers a reply gives: one of them alone, or it is excluded, and why.

    Of a guard model, whose template is the ``conversation``, the first line counts: reasons follow it, and
    where they are cut off it is whole.
    """
    guard = template.layout == "conversation"
    line, ended, _ = reply.text.lstrip().partition("\n")
    given = (line if guard else reply.text).strip().strip(AROUND).casefold()
    allowed = [answer.strip(AROUND).casefold() for answer in template.answers]
    if reply.failure is not None:
        return Answer(reply.failure, None, "")
    whole = reply.ending is None or (reply.ending == "cut off" and guard and ended)
    if whole and given in allowed:
        return Answer("answered", allowed.index(given), reply.text)
    if reply.ending is not None:
        return Answer(reply.ending, None, reply.text)
    return Answer("refused" if REFUSAL.match(reply.text) else "malformed", None, reply.text)


class Book:
    """The replies of one judge in a folder, a file each, so that a killed process loses none.

    Args:
        folder: The folder; other judges may have theirs there too.
        identity: What its replies depend on besides the question.
    """

    def __init__(self, folder: epath.Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self.names = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()

    def name(self, asked: Asked) -> str:
        """Return the name of the file of a question's reply."""
        about = asked.template
        question = {"turns": asked.turns, "system": about.system, "date": about.date, "layout": about.layout}
        return fingerprint_json(self.identity | question | {"answers": about.answers}) + ".json"

    def read(self, name: str) -> Reply:
        """Read a reply that is kept; raise InputError if its file is corrupt."""
        return Reply(**read_json(self.folder / name))

    def keep(self, name: str, reply: Reply) -> None:
        """Write a reply."""
        write_json(self.folder / name, asdict(reply))
        self.names.add(name)
