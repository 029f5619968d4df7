"""Both orders, ties and exclusions, counted against verdicts that are known by construction."""

import re
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
from etils import epath

from cann_jax.judging.measures import Question, compare, share
from cann_jax.judging.replies import Book, Reply
from cann_jax.scorers.question import read_pair_template, read_template
from tests.builders.judge_server import completion, judge_server
from tests.builders.models import tiny_tokenizer
from tests.judging.conftest import ALONE, PAIR, cases


def shown(text: str) -> tuple[str, int]:
    """Which policy's answer a question shows first, and the number of its prompt."""
    policy, number = re.search(r"<answer_A>\s*(\w+) (\d+)", text).groups()
    return policy, int(number)


def prefers(policy: str, text: str) -> str:
    return "A" if shown(text)[0] == policy else "B"


def verdicts(text: str, _: int):
    """Prompt 0: aligned; 1: reference; 2: tie; 3: always A; 4: nonsense in one order; 5: aligned, or tie."""
    first, number = shown(text)
    said = {
        0: prefers("aligned", text),
        1: prefers("reference", text),
        2: "Tie.",
        3: "A",
        4: "A" if first == "reference" else "Both have merits.",
        5: prefers("aligned", text) if first == "reference" else "tie",
    }
    return completion(said[number])


def test_pairs_are_counted_by_both_orders(asker):
    with judge_server(verdicts) as server:
        found, rows = asker(server).compare(6)
    assert len(server.requests) == 12 == len({*server.texts()})
    assert (found["wins"], found["losses"], found["ties"]) == (1, 1, 3)
    assert (found["pairs"], found["excluded_pairs"], found["changed_by_order"]) == (5, 1, 2)
    assert (found["answers"], found["excluded"]) == (11, {"malformed": 1})
    assert found["rate"] == pytest.approx(0.5) and found["prompts"] == 5
    assert found["first_preferred"] == pytest.approx(
        4 / 7
    )  # of prompt 0: A, B; of 1: A, B; of 3: A, A; of 5: B
    by_first = Counter((row["prompt_id"], row["first"]) for row in rows)
    assert by_first == {(f"p{n}", name): 1 for n in range(6) for name in ("reference", "aligned")}
    assert [row["choice"] for row in rows if row["status"] != "answered"] == [None]


def test_the_same_text_twice_is_a_tie_and_no_fault_of_the_judge(asker):
    """A run at scale 0 was told that its judge goes by the order."""
    with judge_server(lambda *_: completion("A")) as server:
        judged = asker(server)
        same = cases(4)
        same = replace(same, texts={"reference": same.texts["reference"], "aligned": same.texts["reference"]})
        found, rows = judged.compare(4, same)
    assert not server.requests and not rows
    assert (found["ties"], found["pairs"], found["identical_pairs"]) == (4, 4, 4)
    assert (found["rate"], found["changed_by_order"], found["first_preferred"]) == (0.5, 0, None)


def test_a_judge_of_lengths_alone_has_no_rate_at_equal_length(asker):
    """It prefers the aligned response of the 20 prompts where that is longer by more than 9 tokens."""
    with judge_server(
        lambda text, _: completion(prefers("aligned" if shown(text)[1] > 9 else "reference", text))
    ) as server:
        found, _ = asker(server).compare(30)
    equal = found["length_controlled"]
    assert found["rate"] == pytest.approx(2 / 3) and equal["slope"] > 1
    assert equal["value"] < 0.5


def test_shares_by_policy_and_category(asker):
    def judge(text: str, _: int):
        policy, number = re.search(r"Response:\s*(\w+) (\d+)", text).groups()
        if number == "3":
            return completion(None, refusal="I will not.")
        return completion("unsafe" if policy == "reference" and int(number) % 2 else "**Safe**")

    with judge_server(judge) as server:
        found, rows = asker(server).share(8)
    assert (found["reference"]["rate"], found["aligned"]["rate"]) == (pytest.approx(3 / 7), 0)
    assert found["aligned"]["interval"][1] > 0.3
    assert found["categories"]["odd"]["reference"] == {
        "rate": 1,
        "prompts": 3,
        "interval": pytest.approx((0.4385, 1), abs=1e-3),
    }
    assert found["categories"]["even"]["reference"]["rate"] == 0
    assert (found["answers"], found["excluded"]) == (14, {"refused": 2})
    assert {row["policy"] for row in rows} == {"reference", "aligned"}


def test_of_a_guard_the_first_line_counts(asker):
    with judge_server(lambda *_: completion("unsafe\nS1")) as server:
        found, _ = asker(server).share(2, "guard_v1")
    assert found["aligned"]["rate"] == 1
    assert [turn["role"] for turn in server.requests[0][2]["messages"]] == ["user", "assistant"]


class Listener:
    """A judge that keeps what it is asked, and whose tokenizer may be known."""

    identity: ClassVar = {}

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, []

    def ask(self, asked, keep):
        for name, each in asked.items():
            self.texts += [turn.text for turn in each.turns]
            keep(name, Reply(each.template.answers[0]))


@pytest.mark.parametrize("tokenizer", [None, tiny_tokenizer()])
def test_a_judge_reads_special_tokens_of_its_own_as_text(tmp_path, tokenizer):
    """A server's are not known, and it gets the texts as they are."""
    spelled = {policy: [[f"{policy}<|end|>"]] * 2 for policy in ("reference", "aligned")}
    of, judge, book = replace(cases(2), texts=spelled), Listener(tokenizer), Book(epath.Path(tmp_path), {})
    compare(judge, book, of, Question("both", read_pair_template(PAIR, "both"), [0, 1]), 0.95)
    share(judge, book, of, Question("unsafe", read_template(ALONE, "unsafe"), [0]), 0.95)
    assert len(judge.texts) == 6
    assert all(("<|end|>" in text) == (tokenizer is None) for text in judge.texts)
