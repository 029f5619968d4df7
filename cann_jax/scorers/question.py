"""Questions to a judge about a response, or about two: how they are written, and which answers they allow."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import yaml

from cann_jax.config.ranges import TEMPLATE_DATE, Date
from cann_jax.config.schema import from_mapping
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.spelled import as_text, prompt_as_text
from cann_jax.data.templates import bare_ids, chat_ids, text_ids
from cann_jax.files.errors import InputError
from cann_jax.files.yaml_text import load_yaml

TEMPLATES = Path(__file__).with_name("templates")

T = TypeVar("T", bound="Template")


@dataclass(frozen=True, kw_only=True)
class Template(ABC):
    """What every question has. A shipped file is never changed: a better question gets a new number.

    Args:
        layout: ``question`` puts the question as a user message into the model's chat template, ``text``
            hands it over as it is, and ``conversation`` hands over prompt and response as a conversation, for
            guard models, whose chat template is the question.
        question: Text with a field in braces for the prompt and each response; not for ``conversation``.
        system: System message; null leaves the chat template's default.
        date: The day that the chat template takes for today.
    """

    fields: ClassVar[tuple[str, ...]]  # that the question must hold

    layout: Literal["question", "text", "conversation"]
    question: str | None = None
    system: str | None = None
    date: Date = TEMPLATE_DATE

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """The answers that it allows."""

    def turns(self, prompt: Prompt, *responses: str, tokenizer: Any) -> tuple[Turn, ...]:
        """Return the dialogue that is put to the judge, of a ``text`` the text alone.

        Special tokens of the judge's ``tokenizer`` that prompt and responses spell are broken apart, and none
        where it is None, as that of a server is not known.
        """
        if tokenizer is not None:
            prompt = prompt_as_text(prompt, tokenizer)
            responses = tuple(as_text(text, tokenizer) for text in responses)
        if self.layout == "conversation":
            return (*prompt.dialogue, Turn("assistant", responses[0]))
        text = prompt.text
        if prompt.earlier:
            text = "\n".join(f"{turn.role}: {turn.text}" for turn in prompt.dialogue)
        values = dict(zip(self.fields, (text, *responses), strict=True))
        # In one pass: a response that has {prompt} in it is left as it is.
        return (Turn("user", self._field().sub(lambda field: values[field[1]], self.question or "")),)

    def turn_ids(self, turns: tuple[Turn, ...], tokenizer: Any) -> np.ndarray:
        """Return the ids that stand before the answer."""
        return (
            text_ids(turns[0].text, tokenizer) if self.layout == "text" else chat_ids(turns, tokenizer, self)
        )

    def answer_ids(self, tokenizer: Any) -> list[np.ndarray]:
        """Return the ids of each answer."""
        return [np.array(bare_ids(text, tokenizer), np.int32) for text in self.answers]

    def check(self, label: str) -> None:
        """Raise InputError if the question lacks a field, or has one where it needs none."""
        if self.layout == "conversation" and self.question is not None:
            raise InputError(f"{label}: the layout 'conversation' has no question; leave it out")
        if self.layout != "conversation" and set(self._field().findall(self.question or "")) != {
            *self.fields
        }:
            named = " and ".join("{" + field + "}" for field in self.fields)
            raise InputError(f"{label}: its question must hold {named}; fix the template")

    def _field(self) -> re.Pattern[str]:
        return re.compile(r"\{(" + "|".join(self.fields) + r")\}")


@dataclass(frozen=True, kw_only=True)
class JudgeTemplate(Template):
    """A question about one response, and its two answers.

    Args:
        better: The answer that speaks for the response.
        worse: The answer that speaks against it.
    """

    fields: ClassVar[tuple[str, ...]] = ("prompt", "response")

    better: str
    worse: str

    @property
    def answers(self) -> tuple[str, ...]:
        """The better and the worse answer."""
        return self.better, self.worse

    def ids(self, prompt: Prompt, response: str, tokenizer: Any) -> np.ndarray:
        """Return the ids that stand before the answer to the question about a response."""
        return self.turn_ids(self.turns(prompt, response, tokenizer=tokenizer), tokenizer)


@dataclass(frozen=True, kw_only=True)
class PairTemplate(Template):
    """A question about two responses to one prompt, and its three answers.

    Args:
        first: The answer that prefers the first response.
        second: The answer that prefers the second.
        tie: The answer that prefers neither.
    """

    fields: ClassVar[tuple[str, ...]] = ("prompt", "first", "second")

    layout: Literal["question", "text"]
    first: str = "A"
    second: str = "B"
    tie: str = "tie"

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers for the first, for the second, and for neither."""
        return self.first, self.second, self.tie


def read_template(name: str, key: str) -> JudgeTemplate:
    """Read a template of a question about one response: a shipped one, by its name, or a file.

    Raises:
        InputError: It does not exist, or is not a template.
    """
    return _read(JudgeTemplate, TEMPLATES, name, key)


def read_pair_template(name: str, key: str) -> PairTemplate:
    """Read a template of a question about two responses; otherwise as ``read_template``."""
    return _read(PairTemplate, TEMPLATES / "pairs", name, key)


def _read(kind: type[T], folder: Path, name: str, key: str) -> T:
    template = from_mapping(kind, _values(folder, name, key), f"{key}.template")
    template.check(f"{key}.template {name}")
    return template


def _values(folder: Path, name: str, key: str) -> Mapping[str, Any]:
    shipped = {file.stem: file for file in folder.glob("*.yaml")}
    path = Path(name) if name.endswith(".yaml") else shipped.get(name, Path())
    try:
        values: Mapping[str, Any] = load_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        hint = f"there are {', '.join(sorted(shipped))}, or name a .yaml file"
        raise InputError(f"{key}.template: no template {name!r}; {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}.template: {name} is not valid YAML ({reason}); fix the file") from None
    return values
