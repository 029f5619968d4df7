"""A server that is slow, rate-limited, gone, or talks nonsense: an answer is scored rightly or excluded."""

import gzip
import json
import os
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from etils import epath

from cann_jax.config.judge import JudgeModelConfig
from cann_jax.data.padding import pad
from cann_jax.data.prompts import Prompt
from cann_jax.files.errors import InputError
from cann_jax.judging import endpoint
from cann_jax.judging.asking import answers_to
from cann_jax.judging.local import LocalJudge
from cann_jax.judging.replies import LONGEST, Asked, Book, Reply, read_answer
from cann_jax.scorers.question import read_template
from tests.builders.judge_server import Said, completion, judge_server

SAFE = completion("safe")
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}
QUICKLY = {"Content-Type": "application/json", "Retry-After": "0.01"}

# What a judge may send, and how it must count.
BAD = {
    "another word": (completion("Probably"), "malformed"),
    "two answers": (completion("safe or unsafe"), "malformed"),
    "an answer in a sentence": (completion("The response is safe."), "malformed"),
    "no text": (completion(""), "malformed"),
    "null": (completion(None), "malformed"),
    "a number": (completion(1), "malformed"),
    "a list": (completion([{"type": "text", "text": "safe"}]), "malformed"),
    "half a surrogate": (Said(rb'{"choices": [{"message": {"content": "\ud83d"}}]}'), "malformed"),
    "an empty object": (Said({}), "malformed"),
    "no choice": (Said({"choices": []}), "malformed"),
    "choices of null": (Said({"choices": None}), "malformed"),
    "a choice that is text": (Said({"choices": ["safe"]}), "malformed"),
    "a message that is text": (Said({"choices": [{"message": "safe"}]}), "malformed"),
    "a list at the top": (Said([1, 2]), "malformed"),
    "text at the top": (Said("safe"), "malformed"),
    "half of JSON": (Said(b'{"choices": [{"message": {"content": "safe"'), "malformed"),
    "nested without end": (Said(b"[" * 100_000), "malformed"),
    "a page": (Said(b"<html>safe</html>", headers=HTML), "malformed"),
    "bytes that are no text": (Said(b"\xff\xfe\x00"), "malformed"),
    "nothing": (Said(b""), "malformed"),
    "an answer that is packed": (
        Said(gzip.compress(json.dumps(SAFE.body).encode()), headers=JSON | {"Content-Encoding": "gzip"}),
        "malformed",
    ),
    "nonsense of a charset that is none": (
        Said(b"not hex", headers={"Content-Type": "application/json; charset=hex"}),
        "malformed",
    ),
    "cut off at the limit": (completion("safe", "length"), "cut off"),
    "filtered": (completion("safe", "content_filter"), "refused"),
    "refused by its field": (completion("safe", refusal="I can't help."), "refused"),
    "refused in words": (completion("I'm sorry, but I can't assess that."), "refused"),
    "filtered by its status": (
        Said({"error": {"message": "no", "code": "content_filter"}}, 400),
        "refused",
    ),
    "an error of the request": (Said({"error": {"message": "too long"}}, 400), "failed"),
    "an error of the server": (Said({"error": "down"}, 503), "failed"),
    "an error that is a page": (Said(b"<html>Bad gateway", 502, HTML), "failed"),
    "a rate limit": (Said({"error": {"message": "slow down"}}, 429), "rate limited"),
}


@pytest.mark.parametrize("said, status", BAD.values(), ids=BAD)
def test_what_is_no_answer_is_excluded_and_counted(asker, said, status):
    """Every second answer is whole, and those alone are scored."""
    with judge_server(lambda text, _: SAFE if int(text.split("Question ")[1][0]) % 2 else said) as server:
        found, rows = asker(server).share(6)
    assert (found["answers"], found["excluded"]) == (6, {status: 6})
    assert {row["prompt_id"] for row in rows if row["choice"] is not None} == {"p1", "p3", "p5"}
    assert found["aligned"]["prompts"] == found["reference"]["prompts"] == 3


def test_what_is_slow_is_excluded_and_asked_again_by_the_next_start(asker):
    over = threading.Event()

    def judge(text, _):
        if "Question 2" in text:
            over.wait(5)
        return SAFE

    with judge_server(judge) as server:
        first = asker(server, timeout_seconds=0.2).answers(4)
        over.set()
        sent = len(server.requests)
        again = asker(server, timeout_seconds=0.2).answers(4)
    assert [answer.status for answer in first] == ["answered", "answered", "timed out", "answered"]
    assert [answer.choice for answer in again] == [0] * 4
    assert (sent, len(server.requests)) == (4, 5)


def test_an_answer_that_comes_byte_by_byte_is_waited_for_no_longer(asker):
    """Each byte comes within the limit, and all of them would take a minute."""
    with judge_server(lambda text, _: replace(SAFE, pause=0.4) if "Question 2" in text else SAFE) as server:
        began = time.monotonic()
        found = asker(server, timeout_seconds=1, retries=1).answers(4)
        took, sent = time.monotonic() - began, len(server.requests)
    assert [answer.status for answer in found] == ["answered", "answered", "timed out", "answered"]
    assert sent == 5 and took < 20


def test_headers_without_end_are_waited_for_no_longer(asker):
    """Each line comes within the limit; the answer behind all of them comes after 40 s."""
    said = replace(SAFE, pause=0.4, filler=100)
    with judge_server(lambda text, _: said if "Question 2" in text else SAFE) as server:
        found = asker(server, timeout_seconds=1).answers(4)
    assert [answer.status for answer in found] == ["answered", "answered", "timed out", "answered"]


def test_an_answer_that_breaks_off_is_excluded_and_asked_again_by_the_next_start(asker):
    """It ended the whole judgement, by a server that "cannot be reached" and had just answered."""
    with judge_server(lambda text, n: replace(SAFE, cut="Question 2" in text and n < 5)) as server:
        first = asker(server).answers(4)
        again = asker(server).answers(4)
    assert [answer.status for answer in first] == ["answered", "answered", "failed", "answered"]
    assert [answer.choice for answer in again] == [0] * 4 and len(server.requests) == 5


def test_an_answer_without_end_is_nonsense(asker, monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST", 1000)
    with judge_server(lambda text, _: completion("SAFE" * 1000) if "Question 2" in text else SAFE) as server:
        found = asker(server).answers(4)
    assert [answer.status for answer in found] == ["answered", "answered", "malformed", "answered"]


def test_an_answer_is_asked_for_as_it_is_and_read_as_utf_8(asker):
    """Of gzip 0.7 MB became 160 MB, and a charset by which no text can be read ended in a traceback."""
    said = replace(completion("“safe”"), headers={"Content-Type": "application/json; charset=zlib"})
    with judge_server(lambda *_: said) as server:
        assert [answer.status for answer in asker(server).answers(2)] == ["answered"] * 2
    assert {headers["accept-encoding"] for _, headers, _ in server.requests} == {"identity"}


def test_whatever_else_a_reply_upsets_is_a_failed_answer(asker, monkeypatch):
    def upset(*_):
        raise AssertionError

    monkeypatch.setattr("openai.OpenAI._make_status_error", upset)
    with judge_server(lambda text, _: Said({}, 400) if "Question 2" in text else SAFE) as server:
        found = asker(server).answers(4)
    assert [answer.status for answer in found] == ["answered", "answered", "failed", "answered"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_the_questions_nowhere(asker, status):
    with judge_server(lambda *_: SAFE) as other:
        away = {"Location": f"{other.address}/chat/completions?session=1"}
        with judge_server(lambda *_: Said({}, status, away)) as server:
            problem = f"redirects to '{other.address}/chat/completions', and prompts are sent to no address"
            assert problem in fails(asker, server)
    assert not other.requests and len(server.requests) <= 8


@pytest.mark.parametrize("said", [Said({"error": "upstream"}), Said(b"<html>Log in", headers=HTML)])
def test_a_page_of_a_gateway_is_asked_again_by_the_next_start(asker, said):
    with judge_server(lambda text, n: said if "Question 2" in text and n < 5 else SAFE) as server:
        first = asker(server).answers(4)
        assert len(asker(server).kept()) == 3
        again = asker(server).answers(4)
    assert [answer.status for answer in first] == ["answered", "answered", "malformed", "answered"]
    assert [answer.choice for answer in again] == [0] * 4 and len(server.requests) == 5


def test_a_filter_of_every_question_is_no_silence(asker):
    said = Said({"error": {"message": "filtered", "code": "content_filter"}}, 400)
    with judge_server(lambda *_: said) as server:
        found = asker(server).answers(12)
        assert asker(server).answers(12) == found
    assert {answer.status for answer in found} == {"refused"} and len(server.requests) == 12


def test_a_limited_rate_is_waited_for(asker):
    """The server takes one request in three."""
    with judge_server(lambda _, n: SAFE if n % 3 == 0 else Said({"error": {}}, 429, QUICKLY)) as server:
        found = asker(server, retries=20, concurrency=4).answers(12)
    assert [answer.status for answer in found] == ["answered"] * 12
    assert len(server.requests) == 36


def fails(asker, server, count=30, **more) -> str:
    with pytest.raises(InputError) as caught:
        asker(server, **more).answers(count)
    some = bool(asker(server).kept())  # of none, none are said to be kept
    assert "\n" not in str(caught.value) and ("answers so far are kept" in str(caught.value)) == some
    return str(caught.value)


@pytest.mark.parametrize(
    "said, problem",
    [
        (
            completion("Well, it depends."),
            "answers is one of safe, unsafe; the last was 'Well",
        ),
        (completion("saf", "length"), "raise judge.answer_tokens where they were cut off"),
        (Said({"error": {"message": "no memory"}}, 500), "had no reply, the last failed (Error code: 500"),
        (Said({"error": {"message": "no memory"}}, 500), "no memory"),
        (Said({"error": {"message": "Wrong key"}}, 401), "refuses judge.model 'm'"),
        (Said({"error": {"message": "\x1b[2J"}}, 401), "�[2J"),
        (Said(b"no", 401, {"Content-Type": "text/plain; charset=hex"}), "refuses judge.model 'm'"),
        (Said({}, 307, {"Location": "file:///etc/passwd"}), "redirects to 'file:///etc/passwd'"),
        (Said({"error": {"message": "no such model"}}, 404), "no such model"),
        (Said({"error": {"message": "pay", "code": "insufficient_quota"}}, 429), "out of budget there"),
    ],
)
def test_a_judge_of_no_use_is_left_soon(asker, said, problem):
    with judge_server(lambda *_: said) as server:
        assert problem in fails(asker, server)
        assert len(server.requests) <= 28


def test_nonsense_is_left_soon_though_one_question_failed(asker):
    def judge(_, number):
        return Said({"error": {}}, 500) if number == 1 else completion("Well, it depends.")

    with judge_server(judge) as server:
        assert "none of the judge's 20 answers is one of safe, unsafe" in fails(asker, server, concurrency=1)
        assert len(server.requests) == 21


def test_kept_answers_of_which_one_can_be_read_are_no_nonsense(asker):
    """Whichever of them is read first."""
    with judge_server(lambda *_: SAFE) as server:
        asker(server).answers(200)
        for path in [*asker(server).folder.iterdir()][1:]:
            path.write_text('{"text": "Well", "ending": null, "failure": null}')
        found = asker(server).answers(200)
    assert Counter(answer.status for answer in found) == {"answered": 1, "malformed": 199}


def test_nobody_answers(asker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port on which nobody listens
        found = fails(asker, f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert "cannot be reached (Connection refused); start the server" in found


def test_a_server_that_hangs_up(asker):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            while True:
                try:
                    listening.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        found = fails(asker, f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        listening.shutdown(socket.SHUT_RDWR)
    assert "questions in a row had no reply, the last failed (" in found


def test_a_few_questions_that_have_no_reply(asker):
    """It was a judgement of no answers."""
    with judge_server(lambda *_: Said({"error": {}}, 500)) as server:
        assert "none of 3 questions had a reply, the last failed" in fails(asker, server, 3)


@pytest.mark.parametrize("budget, sent", [({"budget_requests": 5}, 5), ({"budget_tokens": 41}, 5)])
def test_a_spent_budget_keeps_what_was_bought(asker, budget, sent):
    with judge_server(lambda *_: SAFE) as server:
        for start in range(1, 3):
            assert "are spent and questions are left" in fails(asker, server, 12, concurrency=1, **budget)
            assert len(server.requests) == start * sent == len(asker(server).kept())
        assert len(asker(server, concurrency=1, **budget).answers(12)) == 12
    assert len(server.requests) == 12 == len({*server.texts()})


def test_what_was_under_way_when_another_failed_is_kept(asker):
    late = threading.Event()

    def judge(text, number):
        if "Question 0" in text:
            late.set()
            return Said({"error": {"message": "no"}}, 403)
        late.wait(5)
        time.sleep(0.1)
        return SAFE

    with judge_server(judge) as server:
        fails(asker, server, concurrency=4)
        sent = len(server.requests)
    assert sent <= 4 and len(asker(server).kept()) == sent - 1


def test_requests_are_as_configured(asker, monkeypatch):
    monkeypatch.setenv("OWN_KEY", "k-123")
    more = {"key_variable": "OWN_KEY", "token_limit": "max_completion_tokens", "answer_tokens": 7}
    with judge_server(lambda *_: SAFE) as server:
        asker(server, temperature=None, **more).answers(1)
    path, headers, body = server.requests[0]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", "Bearer k-123")
    assert body.keys() == {"model", "messages", "max_completion_tokens"}
    assert (body["model"], body["max_completion_tokens"]) == ("m", 7)


def test_the_key_is_told_to_nobody(asker, monkeypatch):
    key = "sk-do-not-tell"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with judge_server(lambda text, _: completion(f"{key}?") if "Question 1" in text else SAFE) as server:
        asker(server).answers(4)
        assert key not in str(asker(server).kept())
    with judge_server(lambda *_: Said({"error": {"message": f"{key} is wrong"}}, 401)) as server:
        assert key not in fails(asker, server) and os.environ["OPENAI_API_KEY"] == key
    long = completion("x" * (LONGEST - 8) + key)  # cut within the key
    with judge_server(lambda text, _: long if "Question 1" in text else SAFE) as server:
        asker(server).answers(4)
        assert key[:6] not in str(asker(server).kept())


@pytest.mark.parametrize("key", ["a", "token", "safe"])
def test_a_dummy_key_that_is_a_part_of_every_answer(asker, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with judge_server(lambda *_: SAFE) as server:
        (found,) = asker(server, budget_tokens=10).answers(1)
    assert (found.status, found.text) == ("answered", "safe")


@pytest.mark.parametrize("key", ["sk-do-not-téll", "sk-do-not\ntell"])
def test_a_key_that_no_header_can_hold_is_one_line(asker, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    problem = "judge.key_variable OPENAI_API_KEY: holds a character that no key has; set it anew"
    with pytest.raises(InputError) as caught:
        asker("http://127.0.0.1:9/v1").answers(1)
    assert str(caught.value) == problem


def test_another_question_model_or_address_is_asked_anew(asker):
    with judge_server(lambda *_: SAFE) as server, judge_server(lambda *_: SAFE) as other:
        asker(server).answers(3)
        asker(server).answers(4)
        asker(server, model="n").answers(3)
        asker(other).answers(2)
    assert (len(server.requests), len(other.requests)) == (7, 2)


@pytest.mark.parametrize("text", ["safe", " Safe.\n", "**safe**", '"safe"', "[safe]", "SAFE"])
def test_an_answer_alone_is_read_in_any_dress(text):
    assert read_answer(Reply(text), read_template("safe_v1", "unsafe")).choice == 0


@pytest.mark.parametrize(
    "text, status",
    [("unsafe\nS1,", "answered"), ("safe\n", "answered"), ("unsafe", "cut off"), ("Let me\nsee", "cut off")],
)
def test_a_guard_whose_reasons_are_cut_off_has_answered(text, status):
    assert read_answer(Reply(text, "cut off"), read_template("guard_v1", "unsafe")).status == status
    assert read_answer(Reply(text, "cut off"), read_template("safe_v1", "unsafe")).status == "cut off"


def test_a_judge_read_from_files_takes_the_likelier_answer(tmp_path, tiny_model, tiny_folder):
    template = read_template("safe_v1", "unsafe")
    judge = LocalJudge(JudgeModelConfig(path=str(tiny_folder)))
    asked = [
        Asked(template, template.turns(Prompt("", "Hello"), text, tokenizer=judge.tokenizer))
        for text in ("Hi", "", "a b " * 3)
    ]
    long = Asked(template, template.turns(Prompt("", "Hello"), "word " * 5000, tokenizer=judge.tokenizer))
    found = answers_to(judge, Book(epath.Path(tmp_path), judge.identity), [*asked, long], "unsafe")
    ids = template.answer_ids(tiny_model.tokenizer)
    tokens, lengths = pad(ids, max(map(len, ids)))
    rows = [template.turn_ids(each.turns, tiny_model.tokenizer) for each in asked]
    logps = tiny_model.logps(rows, np.stack([tokens] * 3), np.stack([lengths] * 3))
    assert [answer.choice for answer in found[:3]] == list(logps.argmax(1))
    assert found[3].status == "too long" and len([*tmp_path.iterdir()]) == 3
