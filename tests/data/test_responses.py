"""Responses on disk and back."""

import numpy as np

from cann_jax.data.encoded_prompts import EncodedPrompts
from cann_jax.data.prompts import Prompt
from cann_jax.data.responses import responses_from_table, responses_table
from cann_jax.sampling.slots import Samples
from tests.builders.models import tiny_tokenizer


def test_responses_round_trip():
    """The end token stays in the ids and leaves the text; an id equal to pad inside a response survives."""
    tokenizer = tiny_tokenizer()
    word = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    tokens = np.zeros((2, 2, 9), np.int32)
    lengths = np.array([[len(word) + 1, 9], [1, 2]])
    tokens[0, 0, : len(word) + 1] = [*word, 1]
    tokens[0, 1] = 44
    tokens[1, 0, 0] = 1
    tokens[1, 1, :2] = [1, 45]
    logps = np.where(np.arange(9) < lengths[..., None], -1.5, 0).astype(np.float32)
    samples = Samples(tokens, lengths, logps, np.array([[True, False], [True, False]]))
    prompts = EncodedPrompts(
        (
            Prompt("0", "not in this shard"),
            Prompt("a", "Hi", "g", cut_from=Prompt("a", "Say Hi")),
            Prompt("b", "Ho"),
        ),
        (np.array([5]), np.array([0, 3], np.int32), np.array([0], np.int32)),
    )
    back = responses_from_table(responses_table(prompts, 1, samples, tokenizer), 9)
    assert back.prompts.prompts == prompts.prompts[1:]
    # A round must know a prompt that was kept from training, however far it was cut.
    assert [each.content for each in back.prompts.prompts] == [each.content for each in prompts.prompts[1:]]
    assert back.prompts.prompts[0].content == Prompt("", "say hi").content
    for ours, theirs in zip(back.prompts.ids, prompts.ids[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(back.tokens, tokens)
    np.testing.assert_array_equal(back.lengths, lengths)
    np.testing.assert_array_equal(back.stopped, samples.stopped)
    np.testing.assert_allclose(back.logps, -1.5 * lengths)
    assert back.texts[0][0] == "Hello" and back.texts[1][0] == ""
    assert back.prompt_texts() == ["Hi", "Hi", "Ho", "Ho"] and back.flat_texts()[0] == "Hello"
    part = back.take([1])
    assert part.shape == (1, 2) and part.prompts.prompts == prompts.prompts[2:]
