"""What a judge's answers come to: win rates, and shares of responses."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cann_jax.core.rates import Rate, length_controlled, rate
from cann_jax.data.prompts import Prompt
from cann_jax.judging.asking import Judge, answers_to
from cann_jax.judging.cases import Cases
from cann_jax.judging.replies import Answer, Asked, Book
from cann_jax.run.outputs import ALIGNED, POLICIES, REFERENCE
from cann_jax.scorers.question import Template

Row = dict[str, Any]
ORDERS = ((REFERENCE, ALIGNED), (ALIGNED, REFERENCE))
FIRST, SECOND, TIE = range(3)  # the answers of a pair's template
TIED = 0.5
WORSE = 1  # that of another template which speaks against the response


class Question(NamedTuple):
    """A question: its key in the configuration, its template, and the indices of the prompts it is about."""

    key: str
    template: Template
    prompts: list[int]


def compare(
    judge: Judge, book: Book, cases: Cases, question: Question, confidence: float
) -> tuple[dict[str, Any], list[Row]]:
    """Return the win rate of the aligned model by a question about two responses, and a row an answer.

    Both orders are asked. A pair is won where both prefer the aligned model, lost where both prefer the
    reference, and a tie where they differ or prefer neither; without an answer of both it is excluded. Two
    responses of the same text are a tie that nobody is asked about.
    """
    key, template, prompts = question
    every = [(n, k) for n in prompts for k in range(len(cases.texts[REFERENCE][n]))]
    places = [(n, k) for n, k in every if len({cases.texts[policy][n][k] for policy in POLICIES}) > 1]
    asked = [
        _asked(judge, template, cases.prompts[n], *(cases.texts[policy][n][k] for policy in order))
        for n, k in places
        for order in ORDERS
    ]
    answers = answers_to(judge, book, asked, key)
    rows = [
        _row(cases, key, n, k, answer) | {"first": order[0]}
        for (n, k), pair in zip(places, _pairs(answers), strict=True)
        for order, answer in zip(ORDERS, pair, strict=True)
    ]
    won = dict(zip(places, map(_won, _pairs(answers)), strict=True))
    wins = np.array([won.get(place, TIED) for place in every]).reshape(len(prompts), -1)
    longer = cases.tokens[ALIGNED][prompts] - cases.tokens[REFERENCE][prompts]
    found = _win_rate(wins, longer, confidence) | {"identical_pairs": len(every) - len(places)}
    return found | _positions(_pairs(answers)) | _counts(answers), rows


def share(
    judge: Judge, book: Book, cases: Cases, question: Question, confidence: float
) -> tuple[dict[str, Any], list[Row]]:
    """Return the share of each policy's responses that a question speaks against, also by category."""
    key, template, prompts = question
    places = [
        (policy, n, k) for policy in POLICIES for n in prompts for k in range(len(cases.texts[policy][n]))
    ]
    asked = [_asked(judge, template, cases.prompts[n], cases.texts[p][n][k]) for p, n, k in places]
    answers = answers_to(judge, book, asked, key)
    rows = [
        _row(cases, key, n, k, answer) | {"policy": policy}
        for (policy, n, k), answer in zip(places, answers, strict=True)
    ]
    said = [np.nan if answer.choice is None else float(answer.choice == WORSE) for answer in answers]
    by_policy = dict(zip(POLICIES, np.array(said).reshape(len(POLICIES), len(prompts), -1), strict=True))
    categories = np.array([cases.prompts[n].group or "" for n in prompts])
    found = {policy: _rate(values, confidence) for policy, values in by_policy.items()}
    parts = {
        str(name): {
            policy: _rate(values[categories == name], confidence) for policy, values in by_policy.items()
        }
        for name in np.unique(categories)
        if name and len({*categories}) > 1
    }
    return found | {"categories": parts} | _counts(answers), rows


def _asked(judge: Judge, template: Template, prompt: Prompt, *responses: str) -> Asked:
    return Asked(template, template.turns(prompt, *responses, tokenizer=judge.tokenizer))


def _pairs(answers: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    return list(zip(answers[::2], answers[1::2], strict=True))


def _won(pair: tuple[Answer, Answer]) -> float:
    """Return 1 where the aligned model wins a pair, 0 where it loses, ½ for a tie, NaN where excluded."""
    choices = tuple(answer.choice for answer in pair)
    if None in choices:
        return float("nan")
    return {(SECOND, FIRST): 1.0, (FIRST, SECOND): 0.0}.get(choices, TIED)  # type: ignore[arg-type]


def _win_rate(wins: np.ndarray, longer: np.ndarray, confidence: float) -> dict[str, Any]:
    """Return rates of ``wins`` (n, K) over prompts; the aligned response is ``longer`` by so many tokens."""
    scored = ~np.isnan(wins)
    known = scored.any(1)
    means = _means(wins)
    lengths = np.where(scored, longer, 0).sum(1)[known] / scored.sum(1)[known]
    controlled = length_controlled(means, lengths, confidence)
    return {
        **_rate(wins, confidence),
        "length_controlled": None if controlled is None else controlled._asdict(),
        "pairs": int(scored.sum()),
        "excluded_pairs": int((~scored).sum()),
        "wins": int((wins == 1).sum()),
        "ties": int((wins == TIED).sum()),
        "losses": int((wins == 0).sum()),
    }


def _positions(pairs: Sequence[tuple[Answer, Answer]]) -> dict[str, Any]:
    """Return how many pairs are judged otherwise in the other order, and how often the first is taken."""
    whole = [(a.choice, b.choice) for a, b in pairs if a.choice is not None and b.choice is not None]
    same = {(FIRST, SECOND), (SECOND, FIRST), (TIE, TIE)}
    sides = [choice for pair in whole for choice in pair if choice != TIE]
    return {
        "changed_by_order": sum(pair not in same for pair in whole),
        "first_preferred": sum(choice == FIRST for choice in sides) / len(sides) if sides else None,
    }


def _rate(values: np.ndarray, confidence: float) -> dict[str, Any]:
    """Return the rate of values (n, K), NaN where excluded, and how many prompts have any."""
    means = _means(values)
    found: Rate = rate(means, confidence)
    return {"rate": found.value, "interval": found.interval, "prompts": len(means)}


def _means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each prompt's values (n, K) that are no NaN; prompts without one are left out."""
    known = ~np.isnan(values).all(1)
    return np.asarray(np.nanmean(values[known], axis=1))


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    counts = Counter(answer.status for answer in answers)
    return {"answers": counts.pop("answered", 0), "excluded": dict(sorted(counts.items()))}


def _row(cases: Cases, key: str, n: int, k: int, answer: Answer) -> Row:
    prompt = cases.prompts[n]
    return {
        "question": key,
        "prompt_id": prompt.id,
        "set": cases.sets[n],
        "category": prompt.group,
        "response": k,
        "first": None,
        "policy": None,
        "status": answer.status,
        "choice": answer.choice,
        "text": answer.text,
    }
