"""Judge a finished run: ask every question, and write the answers and what they come to."""

from typing import Any

import pyarrow as pa
from etils import epath

from cann_jax.config.judge import JudgeConfig
from cann_jax.files.atomic import read_json, write_json, write_table
from cann_jax.files.hashes import as_json
from cann_jax.files.lock import sole_writer
from cann_jax.judging.asking import Judge
from cann_jax.judging.cases import EVALUATE, Cases, cases_of
from cann_jax.judging.endpoint import Endpoint
from cann_jax.judging.local import LocalJudge
from cann_jax.judging.measures import Question, Row, compare, share
from cann_jax.judging.replies import Book
from cann_jax.run.manifest import commit_fingerprint
from cann_jax.run.outputs import POLICIES
from cann_jax.run.run import Run
from cann_jax.scorers.question import Template, read_pair_template, read_template

COMPARISONS = ("helpfulness", "safety")  # of two responses; the other questions are about one
RESULTS, VERDICTS, ANSWERS = "results.json", "verdicts.parquet", "answers"
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("question", "prompt_id", "set", "category"), pa.string()),
        "response": pa.int32(),
        **dict.fromkeys(("first", "policy", "status"), pa.string()),
        "choice": pa.int32(),
        "text": pa.string(),
    }
)


def judge_folder(run: Run) -> epath.Path:
    """Return the folder of what the judge said of a run."""
    return run.folder / "judge"


def judge_run(run: Run, config: JudgeConfig) -> dict[str, Any]:
    """Ask what has not been answered, write ``results.json`` and ``verdicts.parquet``, return the results.

    Raises:
        InputError: Settings, prompts or the run do not fit; or the judge cannot be reached, is out of budget
            or answers nonsense. The answers so far are kept, and another start goes on from them.
    """
    with sole_writer(run.folder):
        templates = {key: _template(key, each.template) for key, each in config.questions().items()}
        cases = cases_of(run, config)
        # All of it before anything is paid for.
        questions = [
            Question(key, templates[key], cases.chosen(each.set, key))
            for key, each in config.questions().items()
        ]
        judge: Judge = Endpoint(config.judge) if config.judge.path is None else LocalJudge(config.judge)
        folder = judge_folder(run)
        book = Book(folder / ANSWERS, judge.identity)
        found, rows = dict[str, Any](), list[Row]()
        for question in questions:
            measure = compare if question.key in COMPARISONS else share
            found[question.key], more = measure(judge, book, cases, question, config.confidence)
            rows += more
        results = {**_about(run, config, cases), "questions": found}
        write_table(folder / VERDICTS, pa.Table.from_pylist(rows, _SCHEMA))
        write_json(folder / RESULTS, results)
    return dict(as_json(results))


def _template(key: str, name: str) -> Template:
    return read_pair_template(name, key) if key in COMPARISONS else read_template(name, key)


def _about(run: Run, config: JudgeConfig, cases: Cases) -> dict[str, Any]:
    return {
        "run": commit_fingerprint(run.folder / EVALUATE),
        "settings": config,
        "prompts": len(cases.prompts),
        "left_out": cases.left_out,
        "tokens": {name: float(cases.tokens[name].mean()) for name in POLICIES},
        "characters": {
            name: sum(len(text) for row in cases.texts[name] for text in row) / cases.tokens[name].size
            for name in POLICIES
        },
    }


def read_judged(run: Run) -> dict[str, Any] | None:
    """Read what the judge said of the run as it is now; None where none did, or of an earlier state."""
    path = judge_folder(run) / RESULTS
    found = dict(read_json(path)) if path.exists() else {}
    current = found.get("run") == commit_fingerprint(run.folder / EVALUATE)
    return found if found and current else None
