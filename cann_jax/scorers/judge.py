"""Log-odds of two answers to a question about prompt and response, under a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cann_jax.config.model import Dtype
from cann_jax.data.padding import pad
from cann_jax.data.prompts import Prompt
from cann_jax.data.spelled import count_spelled
from cann_jax.files.errors import InputError, named
from cann_jax.files.hashes import fingerprint_json
from cann_jax.scorers.base import Context, DialogueScorer, ProbedKind, Scored, check_lengths
from cann_jax.scorers.question import JudgeTemplate, read_template

if TYPE_CHECKING:
    from cann_jax.models.files.model_files import ModelFiles
    from cann_jax.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class JudgeScorer(ProbedKind):
    """Log-odds of the better over the worse answer to a question about prompt and response, nats.

    Args:
        template: The question: ``helpful_v1``, ``polite_v1``, ``safe_v1``, ``answers_v1``, ``guard_v1``, or a
            .yaml file of your own.
        path: The model that is asked; null asks the run's reference.
        revision: Of a model on the Hub.
        dtype: Dtype of that model's matrix products; the reference keeps its own.
    """

    kind: Literal["judge"] = "judge"
    template: str
    path: str | None = None
    revision: str | None = None
    dtype: Dtype = "float32"

    def open(self, context: Context) -> "Judge":
        if self.path is None:
            model = context.reference()
        else:
            from cann_jax.models.files.load import load_decoder
            from cann_jax.models.language_model import LanguageModel

            files = self._files(self.path)
            model = LanguageModel.of(load_decoder(files, self.dtype), files)
        template = self._template(context.key, model.tokenizer)
        rows = template.answer_ids(model.tokenizer)
        answers, lengths = pad(rows, max(map(len, rows)))
        return Judge(model, template, answers, lengths, context.key)

    def check(self, context: Context) -> None:
        if context.files is not None:
            files = context.files if self.path is None else self._files(self.path)
            self._template(context.key, files.tokenizer)

    def identity(self, context: Context) -> dict[str, str]:
        template = fingerprint_json(read_template(self.template, context.key))
        found = {f"{context.key}.template": template}
        if self.path is not None:
            found[f"{context.key}.model"] = self._files(self.path).fingerprint()
        return found

    def _files(self, path: str) -> "ModelFiles":
        from cann_jax.models.files.model_files import open_model

        return open_model(path, self.revision)

    def _template(self, key: str, tokenizer: Any) -> JudgeTemplate:
        """Return the template, tried on the tokenizer.

        Raises:
            InputError: It cannot be read or used, or its two answers are the same to the tokenizer.
        """
        template = read_template(self.template, key)
        with named(key):
            template.ids(Prompt("", "Hello"), "Hello", tokenizer)
        better, worse = template.answer_ids(tokenizer)
        if not (len(better) and len(worse)) or np.array_equal(better, worse):
            problem = "its answers must be two different texts; fix the template"
            raise InputError(f"{key}.template {self.template}: {problem}")
        return template


@dataclass(frozen=True)
class Judge(DialogueScorer):
    """A loaded ``JudgeScorer``: ln P(better answer) − ln P(worse answer), nats; higher is better.

    ``answers`` (2, T) are the ids of the better and the worse answer, padded on the right.
    """

    model: "LanguageModel"
    template: JudgeTemplate
    answers: np.ndarray
    lengths: np.ndarray
    key: str

    def score_prompts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Scored:
        pairs = zip(prompts, responses, strict=True)
        rows = [self.template.ids(prompt, response, self.model.tokenizer) for prompt, response in pairs]
        check_lengths(map(len, rows), self.model.config.context - self.answers.shape[1], prompts, self.key)
        shape = (len(rows), *self.answers.shape)
        logps = self.model.logps(
            rows, np.broadcast_to(self.answers, shape), np.broadcast_to(self.lengths, shape[:2])
        )
        return Scored(logps[:, 0] - logps[:, 1], count_spelled(responses, self.model.tokenizer))
