"""A GGUF file that was exported: llama.cpp computes the same from it, and what it cannot hold is refused."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.export.folder import export_folder
from cann_jax.models.export.gguf import check_gguf, export_gguf
from cann_jax.models.files.gguf import open_gguf
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from tests.builders.forward import our_logits, random_ids

TEXT = "Tell my neighbour: 12 plants, naïve!"
IDS = random_ids((2, 17))


@pytest.fixture(scope="module")
def exported(tiny, tiny_files, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    export_gguf(tiny, tiny_files, path)
    return path


def test_it_opens_here_as_the_model_that_it_was(exported, tiny, tiny_files, tmp_path):
    files = open_model(str(exported))
    np.testing.assert_allclose(
        our_logits(load_decoder(files, "float32"), IDS), our_logits(tiny, IDS), atol=1e-5
    )
    ours, theirs = tiny_files.tokenizer, files.tokenizer
    assert theirs(TEXT)["input_ids"] == ours(TEXT)["input_ids"] and theirs.chat_template == ours.chat_template
    assert files.ends == tiny_files.ends
    again = tmp_path / "again.gguf"
    export_gguf(tiny, files, again)  # the tokenizer is copied from file to file
    assert open_model(str(again)).tokenizer.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_digits_that_are_cut_alone_stay_so(tiny, tiny_files, tmp_path):
    backend = Tokenizer.from_str(tiny_files.tokenizer.backend_tokenizer.to_str())
    cut = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(cut)
    named = {f"{name}_token": getattr(tiny_files.tokenizer, f"{name}_token") for name in ("bos", "eos")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    export_gguf(tiny, dataclasses.replace(tiny_files, tokenizer=tokenizer), first)
    export_gguf(tiny, open_model(str(first)), second)
    for path in (first, second):
        files = open_model(str(path))
        back = files.tokenizer.backend_tokenizer.pre_tokenizer
        assert back.pre_tokenize_str("\n\n12") == backend.pre_tokenizer.pre_tokenize_str("\n\n12")
        export_folder(tiny, files, tmp_path / "folder")
        assert open_gguf(path)[1]["tokenizer.ggml.pre"] == "smollm"
        as_folder = open_model(str(tmp_path / "folder"))
        export_gguf(tiny, as_folder, tmp_path / "third.gguf")
        assert open_gguf(tmp_path / "third.gguf")[1]["tokenizer.ggml.pre"] == "smollm"


def test_every_end_that_the_format_has_a_place_for(tiny, tiny_files, tmp_path):
    export_gguf(tiny, dataclasses.replace(tiny_files, ends=(1, 2, 4)), tmp_path / "ends.gguf")
    assert open_model(str(tmp_path / "ends.gguf")).ends == (1, 2, 4)


def test_bfloat16_takes_half(exported, tiny, tiny_files, tmp_path):
    export_gguf(tiny, tiny_files, tmp_path / "narrow.gguf", "bfloat16")
    assert (tmp_path / "narrow.gguf").stat().st_size < 0.6 * exported.stat().st_size
    narrow = load_decoder(open_model(str(tmp_path / "narrow.gguf")), "float32")
    np.testing.assert_allclose(our_logits(narrow, IDS), our_logits(tiny, IDS), atol=0.1)


def test_llama_cpp_computes_the_same(exported, tiny, tiny_files):
    """From ids, and from a text that it tokenizes itself; its cache of keys is float16."""
    llama = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
    settings = llama.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(exported), 256, 1, False
    server, ids = llama.Server(settings), tiny_files.tokenizer(TEXT)["input_ids"]
    for prompt, known in ((IDS[0].tolist(), IDS[0]), (TEXT, np.array(ids))):
        found: list[dict] = []
        asked = {"prompt": prompt, "n_predict": 1, "n_probs": 10, "temperature": 0.0, "stream": False}
        server.handle_completions(asked, lambda answer, found=found: found.append(answer))
        expected = np.asarray(jax.nn.log_softmax(our_logits(tiny, known[None])[0, -1]))
        (token,) = found[0]["choices"][0]["logprobs"]["content"]
        assert {each["id"] for each in token["top_logprobs"]} == {*np.argsort(-expected)[:10].tolist()}
        for each in token["top_logprobs"]:
            assert each["logprob"] == pytest.approx(expected[each["id"]], abs=2e-2)


LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "qwen2"}, {"attention_bias": True}, {"hidden_act": "gelu"}, {"rope_scaling": LLAMA_3}],
    ids=str,
)
def test_other_models_are_refused(tiny_files, changes):
    values = tiny_files.config.to_hf() | changes
    if "rope_scaling" in changes:
        values["rope_scaling"] |= {"original_max_position_embeddings": 64, "rope_theta": 1e4}
    config = DecoderConfig.from_hf(values, "config.json")
    with pytest.raises(InputError, match=r"export: gguf is written of Llama models .*convert_hf_to_gguf\.py"):
        check_gguf(dataclasses.replace(tiny_files, config=config))


def test_tokenizers_that_cut_otherwise_are_refused(tiny_files):
    text = tiny_files.tokenizer.backend_tokenizer.to_str()
    changes = {
        '"use_regex":true': '"use_regex":false',
        '"BPE"': '"WordPiece"',
        '"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false': (
            '"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true'
        ),
        '"normalizer":null': '"normalizer":{"type":"NFC"}',
        '"ignore_merges":false': '"ignore_merges":true',
        '"end_of_word_suffix":null': '"end_of_word_suffix":"</w>"',
    }
    for old, new in changes.items():
        assert old in text
        changed = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=partial(text.replace, old, new)))
        with pytest.raises(InputError, match="the tokenizer is not of a kind"):
            check_gguf(dataclasses.replace(tiny_files, tokenizer=changed))
