"""Log-odds of two answers to a question about prompt and response, under a language model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from cann_jax.config.schema import from_mapping
from cann_jax.config.scorers import JudgeScorer
from cann_jax.data.padding import pad
from cann_jax.data.prompts import Prompt, Turn, chat_ids, text_ids
from cann_jax.files.errors import InputError, named
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.language_model import LanguageModel
from cann_jax.scorers.base import DialogueScorer, Scored, check_lengths, run_probe

TEMPLATES = Path(__file__).with_name("templates")
FIELD = re.compile(r"\{(prompt|response)\}")


@dataclass(frozen=True)
class JudgeTemplate:
    """A question and its two answers. A shipped file is never changed: a better question gets a new number.

    Args:
        layout: ``question`` puts the question as a user message into the model's chat template, ``text``
            hands it over as it is, and ``conversation`` hands over prompt and response as a conversation, for
            guard models, whose chat template is the question.
        better: The answer that speaks for the response.
        worse: The answer that speaks against it.
        question: Text with {prompt} and {response}; not for ``conversation``.
        system: System message; null leaves the chat template's default.
    """

    layout: Literal["question", "text", "conversation"]
    better: str
    worse: str
    question: str | None = None
    system: str | None = None

    def ids(self, prompt: Prompt, response: str, tokenizer) -> np.ndarray:
        """What stands before the answer."""
        if self.layout == "conversation":
            turns = (*prompt.dialogue, Turn("assistant", response))
            return chat_ids(turns, tokenizer, self.system)
        values = {"prompt": _dialogue(prompt), "response": response}
        question = FIELD.sub(lambda field: values[field[1]], self.question or "")
        if self.layout == "question":
            return chat_ids((Turn("user", question),), tokenizer, self.system)
        return text_ids(question, tokenizer)


@dataclass(frozen=True)
class Judge(DialogueScorer):
    """ln P(better answer) − ln P(worse answer), nats; higher is better.

    Args:
        model: Who is asked.
        template: The question.
        answers: (2, T) ids of the better and the worse answer, padded on the right.
        lengths: (2,).
        key: For messages.
    """

    model: LanguageModel
    template: JudgeTemplate
    answers: np.ndarray
    lengths: np.ndarray
    key: str

    @classmethod
    def load(cls, config: JudgeScorer, key: str, reference: LanguageModel) -> "Judge":
        """Raises InputError where model or template cannot be used, or the probe fails."""
        model = reference if config.path is None else _load(config)
        template = checked(config, key, model.tokenizer)
        rows = [_answer_ids(text, model.tokenizer) for text in (template.better, template.worse)]
        answers, lengths = pad(rows, max(map(len, rows)))
        scorer = cls(model, template, answers, lengths, key)
        run_probe(scorer, config.probe, key)
        return scorer

    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        pairs = zip(prompts, responses, strict=True)
        rows = [self.template.ids(prompt, response, self.model.tokenizer) for prompt, response in pairs]
        check_lengths(rows, self.model.config.max_positions - self.answers.shape[1], prompts, self.key)
        shape = (len(rows), *self.answers.shape)
        logps = self.model.logps(
            rows, np.broadcast_to(self.answers, shape), np.broadcast_to(self.lengths, shape[:2])
        )
        return Scored(logps[:, 0] - logps[:, 1])


def checked(config: JudgeScorer, key: str, tokenizer) -> JudgeTemplate:
    """The template, tried on the tokenizer.

    Raises:
        InputError: it cannot be read or used, or its two answers are the same to the tokenizer.
    """
    template = read_template(config.template, key)
    with named(key):
        template.ids(Prompt("", "Hello"), "Hello", tokenizer)
    better, worse = (_answer_ids(text, tokenizer) for text in (template.better, template.worse))
    if not (len(better) and len(worse)) or np.array_equal(better, worse):
        raise InputError(
            f"{key}.template {config.template}: its answers must be two different texts; mend it"
        )
    return template


def read_template(name: str, key: str) -> JudgeTemplate:
    """A template that is shipped, by its name, or a file.

    Raises:
        InputError: there is none, or it is no template.
    """
    path = Path(name) if name.endswith(".yaml") else TEMPLATES / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        shipped = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml")))
        raise InputError(
            f"{key}.template: no template {name!r}; there are {shipped}, or name a .yaml file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{key}.template: {name} is no YAML ({reason}); mend the file") from None
    template = from_mapping(JudgeTemplate, values, f"{key}.template")
    asks = set(FIELD.findall(template.question or ""))
    if template.layout == "conversation" and template.question is not None:
        raise InputError(f"{key}.template {name}: the layout 'conversation' has no question; leave it out")
    if template.layout != "conversation" and asks != {"prompt", "response"}:
        raise InputError(
            f"{key}.template {name}: its question must hold {{prompt}} and {{response}}; mend it"
        )
    return template


def _load(config: JudgeScorer) -> LanguageModel:
    files = open_model(str(config.path), config.revision)
    return LanguageModel.of(load_decoder(files, config.dtype), files)


def _answer_ids(text: str, tokenizer) -> np.ndarray:
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)


def _dialogue(prompt: Prompt) -> str:
    """The prompt, with the turns before it where there are any, one a line."""
    if not prompt.earlier:
        return prompt.text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in prompt.dialogue)
