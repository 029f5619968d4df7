"""What ends a response, by the files that people have, and what of them is kept but not applied."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from cann_jax.files.errors import InputError
from cann_jax.models.export.folder import export_folder
from cann_jax.models.export.gguf import export_gguf
from cann_jax.models.export.score_model import export_score_model
from cann_jax.models.files.generation import not_applied, unused_settings
from cann_jax.models.files.gguf import open_gguf
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model

TURN = "<|system|>"  # id 2, which ends a turn in these tests


@pytest.fixture
def changed(tiny_folder, tmp_path):
    """Copy the tiny folder, with other values in its two configurations, and another chat template."""

    def changed(config=None, generation=None, template: str | None = None) -> Path:
        folder = Path(shutil.copytree(tiny_folder, tmp_path / "changed"))
        (folder / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(generation))
        values = json.loads((folder / "config.json").read_text()) | (config or {})
        (folder / "config.json").write_text(json.dumps(values))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return changed


GEMMA = (
    "{% for m in messages %}<|user|>{{ m.content | trim }}" + TURN + "\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENDS = {
    "one": ({}, {"eos_token_id": 1}, None, (1,)),
    "a list": ({}, {"eos_token_id": [1, 4]}, None, (1, 4)),
    "the tokenizer's is not in it": ({}, {"eos_token_id": [4, 3]}, None, (1, 3, 4)),
    "of config.json": ({"eos_token_id": [1, 4]}, None, None, (1, 4)),
    "of config.json, for the other has none": ({"eos_token_id": [1, 4]}, {"top_k": 3}, None, (1, 4)),
    "of config.json, for null says nothing": ({"eos_token_id": [1, 4]}, {"eos_token_id": None}, None, (1, 4)),
    "generation_config.json goes first": ({"eos_token_id": 5}, {"eos_token_id": 4}, None, (1, 4)),
    "the chat template's": ({}, {"eos_token_id": 1}, GEMMA, (1, 2)),
    "a template that refuses": ({}, {"eos_token_id": 1}, "{{ raise_exception('no') }}", (1,)),
}


@pytest.mark.parametrize("config, generation, template, ends", ENDS.values(), ids=ENDS)
def test_every_end_token(changed, config, generation, template, ends):
    assert open_model(str(changed(config, generation, template))).ends == ends


@pytest.mark.parametrize("value", [300, -1, "1", [1, None], 1.0, True])
def test_end_tokens_that_the_model_does_not_have(changed, value):
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id is .* has the ids 0 to 299"):
        open_model(str(changed(generation={"eos_token_id": value})))


SETTINGS = {"eos_token_id": [1, 4], "temperature": 0.6, "top_p": 0.9, "do_sample": True, "top_k": 0}


@pytest.fixture
def without_end(changed):
    """The tiny model, whose tokenizer declares neither end nor padding, while the model's files do."""
    folder = changed(generation={"eos_token_id": 1, "pad_token_id": 5}, template="{{ messages[0].content }}")
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("eos_token", "pad_token")}))
    files = open_model(str(folder))
    assert (files.tokenizer.eos_token_id, files.tokenizer.pad_token_id, files.ends) == (None, None, (1,))
    return files


def test_an_export_keeps_the_end_that_the_tokenizer_does_not_declare(without_end, tmp_path):
    decoder = load_decoder(without_end, "float32")
    export_folder(decoder, without_end, tmp_path / "out")
    export_gguf(decoder, without_end, tmp_path / "out.gguf")
    for opened in (open_model(str(tmp_path / "out")), open_model(str(tmp_path / "out.gguf"))):
        assert opened.ends == (1,)
    assert AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == 1
    theirs = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (1, 5)
    assert open_gguf(tmp_path / "out.gguf")[1]["tokenizer.ggml.eos_token_id"] == 1


def test_an_export_keeps_every_end_and_all_settings(changed, tmp_path):
    files = open_model(str(changed(generation=SETTINGS)))
    decoder = load_decoder(files, "float32")
    export_folder(decoder, files, tmp_path / "out")
    assert open_model(str(tmp_path / "out")).ends == files.ends == (1, 4)
    assert AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == [1, 4]
    theirs = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (theirs.eos_token_id, theirs.temperature, theirs.top_p) == ([1, 4], 0.6, 0.9)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == 1
    head = decoder.embedding[...][0]
    export_score_model(decoder, head, files, tmp_path / "score", layout="safe_rlhf", objective="reward")
    assert json.loads((tmp_path / "score/config.json").read_text())["eos_token_id"] == [1, 4]


def test_other_end_tokens_are_another_model(changed):
    folder = changed(generation=SETTINGS)
    before = open_model(str(folder)).fingerprint()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert open_model(str(folder)).fingerprint() != before


def test_settings_that_would_change_the_reference():
    assert unused_settings(SETTINGS) == {"temperature": 0.6, "top_p": 0.9}
    neutral = {"temperature": 1.0, "top_p": 1, "top_k": 0, "repetition_penalty": 1.0, "suppress_tokens": []}
    assert unused_settings({**neutral, "min_p": None, "max_length": 20}) == {}
    assert not_applied(SETTINGS) == [
        "model: generation_config.json asks for temperature 0.6, top_p 0.9, which is not applied: it samples "
        "another policy than the reference that alignment starts from"
    ]
    assert not_applied(neutral) == not_applied({}) == []
    assert unused_settings({"repetition_penalty": 1.1, "suppress_tokens": [3]}) == {
        "repetition_penalty": 1.1,
        "suppress_tokens": [3],
    }
