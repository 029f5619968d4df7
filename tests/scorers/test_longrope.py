"""Scorers whose model turns all of a sequence by other angles once it is longer than trained."""

from pathlib import Path

import numpy as np
import pytest

from cann_jax.data.prompts import Turn
from cann_jax.files.errors import InputError
from tests.builders.families import FAMILIES, longrope
from tests.builders.models import SHAPE, tiny_tokenizer
from tests.builders.scorers import TEXTS, load_scorer

POSITIONS = 400


def save(folder: Path, trained: int, kind: str):
    """Write the model in transformers' class of this kind, with one label, and return it."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 300, "pad_token_id": 2, "num_labels": 1, **FAMILIES["phi3"]}
    config = transformers.Phi3Config(
        **{
            **shape,
            **FAMILIES["phi3"],
            "sliding_window": None,
            **longrope(trained),
            "max_position_embeddings": POSITIONS,
        }
    )
    model = getattr(transformers, f"Phi3For{kind}")(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def rows_of(dialogues, tokenizer) -> list[list[int]]:
    """The ids of each prompt with each response in the chat template."""
    chats = [
        [{"role": turn.role, "content": turn.text} for turn in (*prompt.dialogue, Turn("assistant", text))]
        for prompt, texts in zip(dialogues.prompts.prompts, TEXTS, strict=True)
        for text in texts
    ]
    return [tokenizer.apply_chat_template(chat, return_dict=False) for chat in chats]


def test_a_reward_model_reads_texts_on_both_sides_of_the_length(tmp_path, model, dialogues):
    import torch

    rows = rows_of(dialogues, model.tokenizer)
    trained = sorted(map(len, rows))[1]
    theirs = save(tmp_path, trained, "SequenceClassification")
    assert min(map(len, rows)) <= trained < max(map(len, rows))
    with torch.no_grad():
        expected = [float(theirs(torch.tensor([row])).logits[0, 0]) for row in rows]
    scorer = load_scorer({"kind": "reward_model", "path": str(tmp_path), "better": "higher"})
    np.testing.assert_allclose(scorer(dialogues, None).values.reshape(-1), expected, atol=1e-4)


def test_a_judge_reads_none_beyond(tmp_path, dialogues):
    save(tmp_path, 64, "CausalLM")
    judge = load_scorer({"kind": "judge", "template": "helpful_v1", "path": str(tmp_path)})
    with pytest.raises(InputError, match=r"prompt '007' with a response has \d+ tokens .* and \d+ fit its"):
        judge(dialogues, None)


@pytest.mark.parametrize("trained, fits", [(60, True), (10, False)])
def test_a_model_compared_with_the_reference_reads_none_beyond(tmp_path, model, dialogues, trained, fits):
    """The run's prompts fit the reference's context of 4,096."""
    save(tmp_path, trained, "CausalLM")
    scorer = load_scorer({"kind": "implicit", "beta": 1.0, "prealigned": {"model": str(tmp_path)}}, model)
    if fits:
        assert np.isfinite(scorer(dialogues, dialogues.logps).values).all()
        return
    with pytest.raises(InputError, match=r"constraints\.safe\.scorer: prompt 'b' with .* 10 fit its model"):
        scorer(dialogues, dialogues.logps)
