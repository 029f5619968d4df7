"""Prompts: every bad line is named, ids are built once with one BOS, what is too long is counted."""

import json

import numpy as np
import pytest

from cann_jax.config.model import PromptsConfig
from cann_jax.data.encoded_prompts import EncodedPrompts, encode_prompts, shared_prompts
from cann_jax.data.padding import bucketed, pad
from cann_jax.data.prompts import Prompt, Turn, distinct_prompts, each_once, read_prompts
from cann_jax.data.spelled import as_text, prompt_as_text
from cann_jax.data.templates import prompt_ids
from cann_jax.files.errors import InputError
from tests.builders.models import tiny_tokenizer


def config(**changes) -> PromptsConfig:
    return PromptsConfig(**{"train": "", "heldout": "", "on_overlong": "error", **changes})


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def read(tmp_path, text: str | bytes, limit=None):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompts(str(path), limit)


def test_read(tmp_path):
    text = '{"prompt": "a", "id": 7, "group": "g"}\r\n\n{"prompt": "b\u2028c"}\n{"prompt": "d", "id": null}'
    assert read(tmp_path, text) == (Prompt("7", "a", "g"), Prompt("3", "b\u2028c"), Prompt("4", "d"))
    assert read(tmp_path, text, 1) == (Prompt("7", "a", "g"),)
    assert read(tmp_path, "\ufeff" + text) == read(tmp_path, text)


def test_special_tokens_in_a_text_are_broken_wherever_they_stand():
    """One within another too, which the longer one hides until it is broken; and one that comes later."""
    tokenizer = tiny_tokenizer()
    assert as_text("a <<|end|>|end|> b", tokenizer) == "a <<\u200b|end|>|end|> b"
    tokenizer.add_special_tokens({"additional_special_tokens": ["|end|", "~"]})
    assert as_text("<|end|>\n", tokenizer) == "<\u200b|\u200bend|>\n"
    prompt = prompt_as_text(Prompt("1", "Hi<|end|>", "g", (Turn("user", "|end|"),)), tokenizer)
    assert prompt == Prompt("1", "Hi<\u200b|\u200bend|>", "g", (Turn("user", "|\u200bend|"),))


def test_content_is_equal_for_equal_requests():
    first = Prompt("1", "Tell  me\nabout it!?", "g", (Turn("user", "Hi."), Turn("assistant", "Yes?")))
    second = Prompt("2", "TELL me about it", None, (Turn("user", "hi"), Turn("assistant", "Yes ...")))
    assert first.content == second.content != first.dialogue
    assert Prompt("3", second.text).content != second.content
    different = ["3 + 4", "3 - 4", "34", "C", "C++", "?", "??", "it's", "its"]
    assert len({Prompt("", text).content for text in different}) == len(different)


def test_each_request_counts_once():
    every = [Prompt("1", "Sing", "a"), Prompt("2", "Dance"), Prompt("3", "sing!", "a")]
    assert [prompt.id for prompt in each_once(every)] == ["1", "2"]
    with pytest.raises(InputError, match=r"'1' and '4' are one request, 'SING', in groups 'a' and 'b'"):
        each_once([*every, Prompt("4", "SING", "b")])


def test_shared_prompts():
    def encoded(*rows: tuple[str, str, list[int]]) -> EncodedPrompts:
        ids = tuple(np.array(each, np.int32) for _, _, each in rows)
        return EncodedPrompts(tuple(Prompt(name, text) for name, text, _ in rows), ids)

    first = encoded(("a", "one", [1]), ("b", "two", [2]), ("c", "three", [3]))
    second = encoded(("x", "Two?", [5]), ("y", "else", [3]), ("z", "four", [4]), ("w", "two", [6]))
    found = [(here.id, there.id) for here, there in shared_prompts(first, second)]
    assert found == [("b", "w"), ("c", "y")]
    assert not shared_prompts(first.take([0]), second)


BAD = {
    "line 2: invalid JSON": '{"prompt": "a"}\n{"prompt": ',
    "line 3: no key 'prompt'; the keys are text, id": '{"prompt": "a"}\n\n{"text": "b", "id": 3}',
    "line 1: the text under the key 'prompt' is empty": '{"prompt": "  "}',
    "line 1: 'prompt' must be a text ([{'role': 'user'": '{"prompt": [{"role": "user", "content": "b"}]}',
    "line 1: 'prompt' must be a text (None)": '{"prompt": null}',
    "line 2: 'id' must be": '{"prompt": "a"}\n{"prompt": "b", "id": [1]}',
    "line 1: 'id' must be a string or a number and 'group' a string": '{"prompt": "b", "group": 3}',
    "line 2: line 1 has the same id, 'x'": '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}',
    "has no prompts": "\n\n",
    "line 2: not UTF-8 ('byte 12 of the line')": b'{"prompt": "a"}\n{"prompt": "\xff"}',
    "line 1: 'prompt' holds half a surrogate pair": '{"prompt": "\\ud83d"}',
    "line 1: 'id' holds half a surrogate pair": '{"prompt": "a", "id": "\\udc00"}',
    "line 1: invalid JSON ('nested too deeply')": "[" * 99_999,
    "line 1: a key is given twice ('prompt'); fix the line": '{"id": "a", "prompt": "x", "prompt": "y"}',
    "line 1: a key is given twice ('b')": '{"prompt": "x", "more": [{"b": 1, "b": 2}]}',
    "line 2: not a JSON object": '{"prompt": "a"}\n["a"]',
}


@pytest.mark.parametrize("said", BAD)
def test_bad_prompts(said, tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, BAD[said])
    assert said in str(error.value) and "prompts.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nothing.jsonl cannot be used"):
        read_prompts(str(tmp_path / "nothing.jsonl"))


@pytest.mark.parametrize("template", ["chat", "Q: {prompt} {A}\n", "<|bos|>Q: {prompt}"])
def test_one_bos_and_no_end_token(tokenizer, template):
    """The chat template says BOS itself, the tokenizer adds one, and the text template may hold one."""
    ids = prompt_ids(Prompt("", "Hello {there}"), tokenizer, config(template=template)).tolist()
    assert ids[0] == 0 and ids.count(0) == 1
    assert ids[-1] != tokenizer.eos_token_id
    assert "Hello {there}" in tokenizer.decode(ids)


def test_tokenizer_without_bos_gets_none(tokenizer):
    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = None
    assert (
        prompt_ids(Prompt("", "Hi"), bare, config(template="{prompt}")).tolist()
        == tokenizer("Hi")["input_ids"][1:]
    )


def test_system_message(tokenizer):
    ids = prompt_ids(Prompt("", "Hi"), tokenizer, config(system="Be kind"))
    assert tokenizer.decode(ids) == "<|bos|><|system|>Be kind<|end|><|user|>Hi<|end|><|assistant|>"


def test_chat_templates_that_are_missing_or_refuse():
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        prompt_ids(Prompt("", "Hi"), bare, config())
    bare.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(InputError, match=r"refuses the dialogue \(no system role\)"):
        prompt_ids(Prompt("", "Hi"), bare, config(system="x"))


DATED = (
    "\n{% for m in messages %}{% set how = '%-d %b %Y' %}{{ strftime_now(how) }} {{ m.content }}{% endfor %}"
)


def test_the_date_of_a_chat_template_is_a_setting(tokenizer):
    dated = tiny_tokenizer()
    dated.chat_template = DATED
    assert dated.decode(prompt_ids(Prompt("", "Hi"), dated, config(date="2024-07-26"))) == "\n26 Jul 2024 Hi"
    assert dated.decode(prompt_ids(Prompt("", "Hi"), dated, config())) == "\n1 Jan 2025 Hi"


LEAVES_OUT = {
    "{{ messages[0].content }}": "leaves out the user message",
    " \n": "leaves out the system message",
    "{{ messages[-1].content }}": "leaves out the system message",
    "{{ messages[0].content + 1 }}": "refuses the dialogue",
    "{{ messages[5].content.x }}": "refuses the dialogue",
}


@pytest.mark.parametrize("template", LEAVES_OUT)
def test_chat_templates_that_leave_something_out(template):
    bare = tiny_tokenizer()
    bare.chat_template = template
    with pytest.raises(InputError, match=LEAVES_OUT[template]) as error:
        prompt_ids(Prompt("", "Hello  there "), bare, config(system="Be kind"))
    assert "\n" not in str(error.value)


SHORT, LONG = Prompt("short", "Hi"), Prompt("long", "Write a short note to thank a neighbour. " * 3 + "END")


def test_overlong_is_an_error(tokenizer):
    with pytest.raises(InputError, match=r"prompt 'long' has \d+ tokens, 20 fit"):
        encode_prompts([SHORT, LONG], tokenizer, config(max_tokens=20), 100)
    assert len(encode_prompts([SHORT, LONG], tokenizer, config(), 500)) == 2


@pytest.mark.parametrize("limit, room, remedy", [
    (20, 100, "raise prompts.max_tokens"),
    (20, 20, "lower sample.max_new_tokens, for the model's context holds no more"),
    (500, 20, "lower sample.max_new_tokens, for the model's context holds no more"),
])  # fmt: skip
def test_overlong_says_which_limit_it_is(tokenizer, limit, room, remedy):
    for on_overlong in ("error", "drop"):
        with pytest.raises(InputError, match=f"20 .*{remedy}$"):
            encode_prompts([LONG], tokenizer, config(on_overlong=on_overlong, max_tokens=limit), room)
    with pytest.raises(InputError, match=f"more than 4 tokens; {remedy}$"):
        small = config(on_overlong="truncate_prompt_left", max_tokens=limit - 16)
        encode_prompts([LONG], tokenizer, small, room - 16)


def test_overlong_is_dropped_and_counted(tokenizer):
    encoded = encode_prompts([LONG, SHORT, LONG], tokenizer, config(on_overlong="drop", max_tokens=500), 20)
    assert (encoded.prompts, encoded.dropped, encoded.truncated) == ((SHORT,), 2, 0)
    with pytest.raises(InputError, match="all 1 prompts have more than 20 tokens"):
        encode_prompts([LONG], tokenizer, config(on_overlong="drop", max_tokens=20), 100)


def test_overlong_is_cut_on_the_left_and_counted(tokenizer):
    cut = config(on_overlong="truncate_prompt_left", max_tokens=20)
    encoded = encode_prompts([LONG, SHORT], tokenizer, cut, 100)
    assert (len(encoded), encoded.dropped, encoded.truncated) == (2, 0, 1)
    row = encoded.ids[0]
    text = tokenizer.decode(row)
    assert 15 < len(row) <= 20
    assert text.startswith("<|bos|><|user|>") and text.endswith("END<|end|><|assistant|>")
    np.testing.assert_array_equal(encoded.ids[1], prompt_ids(Prompt("", "Hi"), tokenizer, cut))
    left, short = encoded.prompts  # what scorers read is what the policy read
    assert LONG.text.endswith(left.text) and left.text != LONG.text and left.id == "long" and short is SHORT
    np.testing.assert_array_equal(row, prompt_ids(left, tokenizer, cut))
    assert left.whole == LONG and left.content == LONG.content
    with pytest.raises(InputError, match="the template alone has more than 4 tokens"):
        encode_prompts([LONG], tokenizer, config(on_overlong="truncate_prompt_left", max_tokens=4), 100)


def test_prompts_cut_to_different_lengths_are_one(tokenizer):
    """As the judge's are, which are cut by the context alone, and pairs by the length of their responses."""
    cut = [config(on_overlong="truncate_prompt_left", max_tokens=limit) for limit in (20, 24)]
    first, second = (encode_prompts([LONG, SHORT], tokenizer, each, 100) for each in cut)
    assert first.prompts[0].text != second.prompts[0].text
    assert shared_prompts(first, second) == [*zip(first.prompts, second.prompts, strict=True)]
    assert distinct_prompts([first.prompts[0], second.prompts[0]], 0) == [LONG]


def test_a_group_outlives_the_cut(tokenizer):
    cut = config(on_overlong="truncate_prompt_left", max_tokens=20)
    grouped = Prompt("long", LONG.text, "rude")
    assert encode_prompts([grouped], tokenizer, cut, 100).prompts[0].group == "rude"


def test_no_room(tokenizer):
    with pytest.raises(InputError, match="leaves no room for a prompt"):
        encode_prompts([SHORT], tokenizer, config(), 0)


def test_padding():
    rows = [np.arange(3), np.arange(33)]
    ids, lengths = bucketed(rows)
    assert ids.shape == (2, 64) and lengths.tolist() == [3, 33]
    assert bucketed(rows[:1])[0].shape == (1, 32)
    np.testing.assert_array_equal(pad(rows[:1], 5)[0], [[0, 1, 2, 0, 0]])


def test_prompts_of_the_quickstart_are_read():
    from pathlib import Path

    path = Path(__file__).parents[2] / "configs/prompts/quickstart_train.jsonl"
    assert len(read_prompts(str(path))) == len([json.loads(line) for line in path.read_text().splitlines()])
