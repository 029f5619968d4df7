"""Prompts with responses of both policies that a judge is asked about; nothing here needs a run."""

import json

import numpy as np
import pytest

from cann_jax.config.judge import JudgeConfig
from cann_jax.config.schema import from_mapping
from cann_jax.data.prompts import Prompt
from cann_jax.judging.asking import answers_to
from cann_jax.judging.cases import Cases
from cann_jax.judging.endpoint import Endpoint
from cann_jax.judging.measures import Question, compare, share
from cann_jax.judging.replies import Asked, Book
from cann_jax.scorers.question import read_pair_template, read_template

PAIR, ALONE = "helpful_pair_v1", "safe_v1"


def settings(address: str, **more):
    section = {"model": "m", "base_url": address, "retries": 0, **more}
    return from_mapping(JudgeConfig, {"judge": section}).judge


def cases(count: int) -> Cases:
    """``count`` prompts, half of them of each category; the aligned response is longer."""
    prompts = tuple(Prompt(f"p{n}", f"Question {n}?", "odd" if n % 2 else "even") for n in range(count))
    texts = {name: [[f"{name} {n}"] for n in range(count)] for name in ("reference", "aligned")}
    tokens = {"reference": np.full((count, 1), 5), "aligned": 5 + np.arange(count)[:, None]}
    return Cases(prompts, (None,) * count, texts, tokens, {})


class Asker:
    """Asks a server in a folder; each call is a new process's."""

    def __init__(self, folder, address, **more):
        self.folder, self.settings = folder / "answers", settings(address, **more)

    def compare(self, count, of=None):
        question = Question("helpfulness", read_pair_template(PAIR, "helpfulness"), [*range(count)])
        return compare(*self._judge(), of or cases(count), question, 0.95)

    def share(self, count, template=ALONE):
        question = Question("unsafe", read_template(template, "unsafe"), [*range(count)])
        return share(*self._judge(), cases(count), question, 0.95)

    def answers(self, count):
        template = read_template(ALONE, "unsafe")
        turns = [template.turns(each, "Fine.", tokenizer=None) for each in cases(count).prompts]
        asked = [Asked(template, each) for each in turns]
        return answers_to(*self._judge(), asked, "unsafe")

    def kept(self):
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*"))]

    def _judge(self):
        import etils.epath

        judge = Endpoint(self.settings)
        return judge, Book(etils.epath.Path(self.folder), judge.identity)


@pytest.fixture
def asker(tmp_path):
    return lambda server, **more: Asker(tmp_path, getattr(server, "address", server), **more)
