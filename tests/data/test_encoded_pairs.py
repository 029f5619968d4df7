"""Pairs as ids: template, end token, limits, counts, and the way through a table."""

import numpy as np
import pytest

from cann_jax.config.model import PromptsConfig
from cann_jax.config.preferences import PreferencesConfig
from cann_jax.data.encoded_pairs import (
    encode_pairs,
    labelled,
    pairs_from_table,
    policy_ids,
    score_model_ids,
)
from cann_jax.data.prepared_pairs import Pair
from cann_jax.data.prompts import Prompt, Turn
from cann_jax.data.templates import prompt_ids, scored_ids
from cann_jax.files.errors import InputError
from cann_jax.models.files.generation import end_tokens, response_end
from tests.builders.models import tiny_tokenizer

EARLIER = (Turn("user", "Hello"), Turn("assistant", "Hi there"))
BEAVER = {
    "template": "BEGIN: USER: {prompt} ASSISTANT:",
    "next_turn": "{reply}<|end|>USER: {prompt} ASSISTANT:",
}


def pair(name="f:1", text="Why {x}?", responses=("Because.", "No idea"), earlier=(), **changes) -> Pair:
    values = {"better": 0, "safer": 1, "safe": (1, 1), "harms": (("Drugs",), ()), **changes}
    return Pair(Prompt(name, text, earlier=earlier), responses, **values)


def encode(
    pairs,
    on_overlong="error",
    max_tokens=512,
    context=4096,
    template=None,
    tokenizer=None,
    scored=False,
    **more,
):
    settings = PreferencesConfig("local", on_overlong, "x", max_tokens=max_tokens, **more)
    prompts = PromptsConfig("", "", "error", **(template or {}))
    tokenizer = tokenizer or tiny_tokenizer()
    if scored:
        ids = score_model_ids(tokenizer, prompts)
    else:
        ids = policy_ids(tokenizer, prompts, response_end(tokenizer, prompts))
    return encode_pairs(pairs, tokenizer, ids, end_tokens([], tokenizer), settings, context)


def ids(pairs, row: int, response: int) -> np.ndarray:
    """The ids of a response, end token included."""
    return pairs.responses.tokens[row, response, : pairs.responses.lengths[row, response]]


def test_ids_texts_and_labels_through_a_table():
    table, counts = encode([pair(), pair("f:2", "Hm?", better=-1, harms=None, earlier=EARLIER)])
    found, tokenizer = pairs_from_table(table), tiny_tokenizer()
    assert [prompt.id for prompt in found.responses.prompts.prompts] == ["f:1", "f:2"]
    assert found.better.tolist() == [0, -1] and found.safer.tolist() == [1, 1]
    assert found.responses.prompts.prompts[1].earlier == EARLIER
    assert found.responses.texts[0] == ["Because.", "No idea"] and found.safe.tolist() == [[1, 1], [1, 1]]
    assert tokenizer.decode(ids(found, 0, 1)) == "No idea<|end|>"
    written = "<|bos|><|user|>Hello<|end|><|assistant|>Hi there<|end|><|user|>Hm?<|end|><|assistant|>"
    assert tokenizer.decode(found.responses.prompts.ids[1]) == written
    assert not +counts
    assert (
        found.responses.total_tokens[0]
        == len(found.responses.prompts.ids[0]) + found.responses.lengths[0].sum()
    )


def test_two_responses_to_each_prompt_for_scorers():
    table, _ = encode([pair(), pair("f:2", responses=("a", "A longer answer"))])
    found = pairs_from_table(table)
    responses = found.responses
    assert responses.shape == (2, 2) and responses.flat_texts() == [
        "Because.",
        "No idea",
        "a",
        "A longer answer",
    ]
    columns = {k: table.column(f"response_ids_{k}").to_pylist() for k in (0, 1)}
    for n, k in np.ndindex(2, 2):
        np.testing.assert_array_equal(ids(found, n, k), columns[k][n])
    assert [prompt.id for prompt in responses.prompts.prompts] == ["f:1", "f:2"]


def test_text_template_for_dialogues():
    tokenizer = tiny_tokenizer()
    table, _ = encode([pair("f:1", earlier=EARLIER)], template=BEAVER)
    written = "<|bos|>BEGIN: USER: Hello ASSISTANT:Hi there<|end|>USER: Why {x}? ASSISTANT:"
    assert tokenizer.decode(pairs_from_table(table).responses.prompts.ids[0]) == written
    single = {"template": BEAVER["template"]}
    with pytest.raises(InputError, match=r"set prompts\.next_turn to a text with"):
        encode([pair(earlier=EARLIER)], template=single)
    with pytest.raises(InputError, match="several turns"):
        encode([pair(earlier=(Turn("system", "x"), *EARLIER[:1]))], template=BEAVER)


def test_labels_contradict_only_where_one_response_alone_is_safe():
    unlike = pair(safer=0, safe=(0, 1)), pair(safer=1, safe=(0, 1))
    alike = pair(safer=0, safe=(0, 0)), pair(safer=-1, safe=(0, 1)), pair(safer=0, safe=(-1, 1))
    assert [each.one_is_safe for each in (*unlike, *alike)] == [True, True, False, False, False]
    assert [each.contradictory for each in (*unlike, *alike)] == [True, False, False, False, False]


def test_what_is_odd_is_counted():
    same, empty = pair("f:1", responses=("a", "a")), pair("f:2", responses=(" ", ""))
    table, counts = encode([same, empty, pair("f:3")])
    assert counts == {"pairs of identical responses left out": 1, "empty responses": 2}
    found = pairs_from_table(table)
    assert [prompt.id for prompt in found.responses.prompts.prompts] == ["f:2", "f:3"]
    assert ids(found, 0, 1).tolist() == [tiny_tokenizer().eos_token_id]
    with pytest.raises(InputError, match=r"1 pairs of identical responses left out.*; use other data"):
        encode([same])


LONG = pair("f:9", "Write a short note to thank a neighbour. " * 3 + "END", earlier=(*EARLIER, *EARLIER))


def test_overlong_is_an_error_that_names_the_row():
    with pytest.raises(
        InputError, match=r"f:9: the prompt has \d+ tokens, its longer response leaves \d+ of 40; raise"
    ):
        encode([LONG], max_tokens=40)
    with pytest.raises(InputError, match=r"leaves 31 of 40; use a model with a longer context, or set"):
        encode([LONG], context=40)
    assert encode([LONG])[0].num_rows == 1


def test_overlong_is_dropped():
    table, counts = encode([LONG, pair()], "drop", max_tokens=60)
    assert table.num_rows == 1 and counts["overlong pairs dropped (preferences.on_overlong)"] == 1
    with pytest.raises(InputError, match=r"no pair is left \(1 overlong pairs dropped"):
        encode([LONG], "drop", max_tokens=40)
    with pytest.raises(InputError, match="use other data, or use a model with a longer context"):
        encode([LONG], "drop", context=40)


@pytest.mark.parametrize("room", [40, 100])
def test_overlong_loses_its_first_turns_first(room):
    tokenizer = tiny_tokenizer()
    once = Prompt("", LONG.prompt.text, earlier=EARLIER)
    fits = len(prompt_ids(once, tokenizer, PromptsConfig("", "", "error"))) + 9
    table, counts = encode([LONG], "truncate_prompt_left", max_tokens=room)
    prompts = pairs_from_table(table).responses.prompts
    row = tokenizer.decode(prompts.ids[0])
    assert counts["overlong prompts cut on the left (preferences.on_overlong)"] == 1
    assert row.startswith("<|bos|><|user|>") and row.endswith("END<|end|><|assistant|>")
    assert row.count("<|user|>") == (2 if room >= fits else 1)
    left = prompts.prompts[0]  # what scorers read is what the policy reads
    np.testing.assert_array_equal(prompts.ids[0], prompt_ids(left, tokenizer, PromptsConfig("", "", "error")))
    assert left != LONG.prompt and left.whole == LONG.prompt and left.content == LONG.prompt.content
    whole = pairs_from_table(encode([LONG])[0]).responses.prompts.prompts[0]
    assert whole == LONG.prompt and whole.cut_from is None


def test_a_response_that_leaves_no_room_is_dropped():
    huge = pair("f:5", responses=("word " * 60, "b"))
    table, counts = encode([huge, pair()], "truncate_prompt_left", max_tokens=40)
    assert table.num_rows == 1 and counts["overlong pairs dropped (preferences.on_overlong)"] == 1


def test_missing_labels_and_end_token():
    found = pairs_from_table(encode([pair(better=-1), pair("f:2"), pair("f:3", better=-1)])[0])
    assert labelled(found, "better").tolist() == [1] and labelled(found, "safer").tolist() == [0, 1, 2]
    none = pairs_from_table(encode([pair(better=-1)])[0])
    with pytest.raises(
        InputError, match=r"has a better_response_id; add .* set preferences\.chosen_is to better"
    ):
        labelled(none, "better")
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        encode([pair()], tokenizer=tokenizer)


# The border would cut "bou", which is one token of the tiny tokenizer, in two.
JOINED = {"template": "Q: {prompt} A: I tell b", "next_turn": "{reply}<|end|>Q: {prompt} A: I tell b"}


@pytest.mark.parametrize("template", [{}, {"system": "Be kind"}, BEAVER, JOINED])
@pytest.mark.parametrize("earlier", [(), EARLIER])
def test_a_reward_model_is_trained_on_the_ids_that_it_is_fed(template, earlier):
    """ChatML writes a line break behind the end token; the score is read there, and must be learnt there."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "{{ eos_token }}\n")
    responses = ("ou, or a coworker", "ou, or my cooking")
    found = pairs_from_table(
        encode(
            [pair(responses=responses, earlier=earlier)], tokenizer=tokenizer, template=template, scored=True
        )[0]
    )
    prompts = PromptsConfig("", "", "error", **template)
    end = () if prompts.template == "chat" else (tokenizer.eos_token_id,)
    for k, text in enumerate(responses):
        fed = scored_ids(found.responses.prompts.prompts[0], text, tokenizer, prompts, end)
        np.testing.assert_array_equal([*found.responses.prompts.ids[0], *ids(found, 0, k)], fed)
        joined = tokenizer.decode(fed)
        assert text + "<|end|>" in joined and joined.endswith("\n" if not end else "<|end|>")
        if template == JOINED:  # one text, as others train their models, and not ids put together
            written = joined.removeprefix("<|bos|>").removesuffix("<|end|>")
            assert fed[1:-1].tolist() == tokenizer(written, add_special_tokens=False)["input_ids"]
            assert tokenizer.convert_tokens_to_ids("bou") in fed


def test_a_reward_models_pairs_are_cut_dropped_and_counted():
    tokenizer = tiny_tokenizer()
    table, counts = encode(
        [LONG, pair("f:2", responses=("a", "a")), pair()], "truncate_prompt_left", 60, scored=True
    )
    assert counts["pairs of identical responses left out"] == 1
    assert counts["overlong prompts cut on the left (preferences.on_overlong)"] == 1
    found = pairs_from_table(table)
    assert 40 < len(found.responses.prompts.ids[0]) + found.responses.lengths[0].max() <= 60
    row = tokenizer.decode([*found.responses.prompts.ids[0], *ids(found, 0, 0)])
    assert row.startswith("<|bos|><|user|>") and row.endswith("END<|end|><|assistant|>Because.<|end|>")
    assert encode([LONG, pair()], "drop", 60, scored=True)[0].num_rows == 1


def test_a_policys_responses_end_as_the_chat_template_ends_them():
    """Gemma's tokenizer ends with <eos> and its answers with <end_of_turn>, Phi-3's with <|end|>."""
    tokenizer = tiny_tokenizer()
    turn = "{{ message.content }}<|system|>\n"
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ message.content }}{{ eos_token }}", turn)
    found = pairs_from_table(encode([pair()], tokenizer=tokenizer)[0])
    assert tokenizer.decode(ids(found, 0, 0)) == "Because.<|system|>"
    text = pairs_from_table(encode([pair()], tokenizer=tokenizer, template=BEAVER)[0])
    assert tokenizer.decode(ids(text, 0, 0)) == "Because.<|end|>"


def test_a_dialogue_that_the_template_refuses_is_named_or_dropped():
    tokenizer = tiny_tokenizer()
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuses + tokenizer.chat_template
    odd = pair("f:7", earlier=(Turn("system", "x"),))
    with pytest.raises(InputError, match=r"^f:7: prompts: .* refuses the dialogue \(no system\)"):
        encode([pair(), odd], tokenizer=tokenizer)
    table, counts = encode([pair(), odd], tokenizer=tokenizer, on_bad_row="drop")
    assert table.num_rows == 1
    assert [count for what, count in counts.items() if "bad rows left out: prompts: the" in what] == [1]


@pytest.mark.parametrize("scored", [False, True])
def test_a_response_written_with_its_end_token_gets_no_second_one(scored):
    """Tables that were written with a chat template have "Yes.<|im_end|>" for a response."""
    closed = pair(responses=("Because.<|end|>", "No idea <|end|><|end|>\n"))
    table, counts = encode([closed, pair("f:2")], scored=scored)
    assert table.equals(encode([pair(responses=("Because.", "No idea ")), pair("f:2")], scored=scored)[0])
    assert +counts == {"responses written with an end token, which is left out": 2}
    same = pair(responses=("Because.", "Because.<|end|>"))
    assert +encode([same, pair("f:2")], scored=scored)[1] == {"pairs of identical responses left out": 1}


@pytest.mark.parametrize("scored", [False, True])
def test_a_response_that_goes_on_behind_an_end_token_is_a_bad_row(scored):
    """No policy can sample what stands there."""
    bad = pair("f:7", responses=("Because.", "No.<|end|> More text"))
    with pytest.raises(InputError, match=r"^f:7: a response goes on behind the end token '<\|end\|>'; e"):
        encode([pair(), bad], scored=scored)
    table, counts = encode([pair(), bad], scored=scored, on_bad_row="drop")
    assert table.column("id").to_pylist() == ["f:1"]
    assert [count for what, count in counts.items() if "bad rows left out: a response goes" in what] == [1]
