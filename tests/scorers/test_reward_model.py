"""Reward and cost models as scorers: what they are fed, which way is better, and what is refused."""

import json

import numpy as np
import pytest

from cann_jax.data.prompts import Prompt
from cann_jax.data.spelled import COUNTED
from cann_jax.data.templates import scored_ids
from cann_jax.files.errors import InputError
from tests.builders.score_models import classifier_outputs, head_outputs, save_classifier, save_safe_rlhf
from tests.builders.scorers import KEY, TEXTS, load_scorer

BEAVER = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:"
NEXT = "{reply}<|end|> USER: {prompt} ASSISTANT:"


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    return save_safe_rlhf(tmp_path_factory.mktemp("cost"), True, score_type="cost")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("reward"))


def load(path, **more):
    return load_scorer({"kind": "reward_model", "path": str(path), **more})


def message(path, **more) -> str:
    with pytest.raises(InputError) as error:
        load(path, **more)
    assert "\n" not in str(error.value) and str(error.value).startswith(KEY)
    return str(error.value)


def rows_of(tokenizer, texts: list[str]) -> list[np.ndarray]:
    return [np.array(tokenizer(text)["input_ids"], np.int32) for text in texts]


def test_safe_rlhf_template_and_sign(cost, model, dialogues):
    """One BOS, the template, the response at once, one end token; a cost is turned so that more is better."""
    texts = [BEAVER.replace("{prompt}", "Hello") + text + "<|end|>" for text in TEXTS[0]]
    first = BEAVER.replace("{prompt}", "Hello")
    texts += [first + "Good day<|end|> USER: Tell me ASSISTANT:" + text + "<|end|>" for text in TEXTS[1]]
    expected = head_outputs(cost, rows_of(model.tokenizer, texts), "score_head").reshape(2, 2)
    settings = {"template": BEAVER, "next_turn": NEXT, "batch": 3}
    for better, sign in (("lower", -1), ("higher", 1)):
        scored = load(cost, better=better, **settings)(dialogues, dialogues.logps)
        np.testing.assert_allclose(scored.values, sign * expected, atol=1e-4)


def test_end_token_changes_the_score(cost, dialogues):
    got = {
        end: load(cost, better="lower", template=BEAVER, next_turn=NEXT, end=end)(dialogues, None).values
        for end in ("auto", "none", "<|end|>", "<|bos|>")
    }
    np.testing.assert_array_equal(got["auto"], got["<|end|>"])
    assert np.abs(got["auto"] - got["none"]).max() > 1e-3 < np.abs(got["auto"] - got["<|bos|>"]).max()


def test_chat_template(classifier, model, dialogues):
    def chat(*turns):
        messages = [{"role": role, "content": text} for role, text in turns]
        return np.array(model.tokenizer.apply_chat_template(messages, return_dict=False), np.int32)

    rows = [chat(("user", "Hello"), ("assistant", text)) for text in TEXTS[0]]
    past = (("user", "Hello"), ("assistant", "Good day"), ("user", "Tell me"))
    rows += [chat(*past, ("assistant", text)) for text in TEXTS[1]]
    got = load(classifier, better="higher")(dialogues, None).values
    np.testing.assert_allclose(got.reshape(-1), classifier_outputs(classifier, rows), atol=1e-4)
    system = load(classifier, better="higher", system="Be strict.")(dialogues, None).values
    assert np.abs(got - system).max() > 1e-3


@pytest.mark.parametrize("template", ["chat", BEAVER])
def test_special_tokens_that_texts_spell_are_text(classifier, template, model):
    scorer, spelled = load(classifier, better="higher", template=template), "No.<|end|><|user|>Hi"
    rows = [
        scored_ids(Prompt("", text), text, model.tokenizer, scorer.config, scorer.end)
        for text in (spelled, "No.", "<|end| |user|> <b>")
    ]
    special = {*model.tokenizer.added_tokens_decoder}
    found, *plain = [[n for n in row if n in special] for row in rows]
    assert plain == [found, found]
    assert scorer.score_texts(["Hi"] * 2, [spelled, "No."]).counts == {COUNTED: 1}


def test_texts_that_spell_no_special_token_are_read_as_they_are(classifier, model):
    odd, tokenizer = "a < b |> <|end| > <|end\n|> </s> <think> {prompt} \u200b", model.tokenizer
    scorer = load(classifier, better="higher", template=BEAVER)
    text = tokenizer(BEAVER.replace("{prompt}", odd) + odd + "<|end|>")["input_ids"]
    assert scored_ids(Prompt("", odd), odd, tokenizer, scorer.config, scorer.end).tolist() == text
    messages = [{"role": role, "content": odd} for role in ("user", "assistant")]
    chat = tokenizer.apply_chat_template(messages, return_dict=False)
    scorer = load(classifier, better="higher")
    assert scored_ids(Prompt("", odd), odd, tokenizer, scorer.config, scorer.end).tolist() == chat


def test_narrow_products_are_set_apart(classifier, dialogues):
    wide, narrow = (
        load(classifier, better="higher", dtype=dtype)(dialogues, None).values
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < np.abs(wide - narrow).max() < 0.1


def test_probe_tells_the_sign(cost):
    scorer = load(cost, better="lower", template=BEAVER)
    texts = ("Thank you.", "You fool.")
    values = scorer.score_texts(["Hi"] * 2, texts).values
    better, worse = np.array(texts)[np.argsort(-values)]
    probe = {"prompt": "Hi", "better": str(better), "worse": str(worse)}
    load(cost, better="lower", template=BEAVER, probe=probe)
    said = message(cost, better="higher", template=BEAVER, probe=probe)
    assert "check which way is better" in said


def test_what_is_refused(cost, classifier, tiny_folder, tmp_path):
    assert "template is 'x'; it must be text: 'chat' or a text that holds {prompt}" in message(
        cost, better="lower", template="x"
    )
    assert "no token '</s>'; name one, or 'none'" in message(cost, better="lower", end="</s>")
    assert "batch is 0" in message(cost, better="lower", batch=0)
    assert "neither score_head.weight nor" in message(tiny_folder, better="lower")
    bare = save_classifier(tmp_path)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (bare / name).unlink(missing_ok=True)
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>"}
    (bare / "tokenizer_config.json").write_text(json.dumps(tokens))
    assert "the tokenizer has no chat template" in message(bare, better="higher")


def test_text_that_does_not_fit(tmp_path, dialogues):
    short = save_classifier(tmp_path, max_position_embeddings=12)
    with pytest.raises(
        InputError, match=r"prompt '007' with a response has \d+ tokens .* and 12 fit its model"
    ):
        load(short, better="higher")(dialogues, None)
