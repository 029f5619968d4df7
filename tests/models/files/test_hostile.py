"""Model folders and files that lie: one line, at once and in 200 MB, and nothing of theirs is run.

``HEADERS=2000`` tries that many changed headers.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cann_jax.data.templates import bare_ids
from cann_jax.files.errors import InputError
from cann_jax.models.files.model_files import open_model
from cann_jax.models.files.tokenizer import _refusal, folder_tokenizer
from cann_jax.models.files.weight_names import check_weights
from tests.builders.limits import fault, refuse_to_limit_memory
from tests.builders.models import save_tiny
from tests.builders.mutations import Change, changed_gguf, changed_json, changed_safetensors
from tests.models.files.test_gguf import write_gguf

HEADERS = int(os.environ.get("HEADERS", "200"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a model in shards, an adapter of it, and the same model as a GGUF file."""
    folder = tmp_path_factory.mktemp("whole")
    save_tiny(folder / "model", max_shard_size="100KB")
    save_tiny(folder / "one")
    write_gguf(folder / "model.gguf", folder / "one")
    shutil.rmtree(folder / "one")
    (folder / "adapter").mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {
        f"{name}.lora_A.weight": np.ones((2, 64), "f4"),
        f"{name}.lora_B.weight": np.ones((64, 2), "f4"),
    }
    save_file(halves, folder / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "bias": "none"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def opened(folder: Path, file: str = "model") -> None:
    """Open a model, check its weights against its configuration, and read them."""
    adapter = str(folder / "adapter") if file == "adapter" else None
    files = open_model(str(folder / (file if file.endswith(".gguf") else "model")), adapter=adapter)
    check_weights({name: reader.shape for name, reader in files.readers.items()}, files.config, "")
    for reader in files.readers.values():
        reader()


FILES: dict[str, tuple[str, Change]] = {
    "model/config.json": ("model", changed_json),
    "model/model.safetensors.index.json": ("model", changed_json),
    "model/generation_config.json": ("model", changed_json),
    "model/tokenizer_config.json": ("model", changed_json),
    "model/tokenizer.json": ("model", changed_json),
    "model/model-00001-of-00005.safetensors": ("model", changed_safetensors),
    "model.gguf": ("model.gguf", changed_gguf),
    "adapter/adapter_config.json": ("adapter", changed_json),
    "adapter/adapter_model.safetensors": ("adapter", changed_safetensors),
}


def test_the_files_as_they_are(whole):
    for file in ("model", "model.gguf", "adapter"):
        opened(whole, file)


@pytest.mark.parametrize("path", FILES)
def test_changed_headers(path, copy):
    file, change = FILES[path]
    content, faults = (copy / path).read_bytes(), {}
    for seed in range(-(-HEADERS // len(FILES))):
        (copy / path).write_bytes(change(content, np.random.default_rng([*path.encode(), seed])))
        if found := fault(opened, copy, file):
            faults[seed] = found
    print("\n".join(f"=== {path}, seed {seed}\n{found}" for seed, found in faults.items()))
    assert not faults


def edit(path: Path, **values) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


def numbers_of_gguf(path: Path, where: bytes, offset: int, number: int) -> None:
    """Put a number of 8 bytes so many bytes behind a text of the file."""
    content = bytearray(path.read_bytes())
    at = content.index(where) + len(where) + offset
    content[at : at + 8] = number.to_bytes(8, "little")
    path.write_bytes(content)


def linked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def doubling(kind: str, name: str, step: dict) -> dict:
    return {kind: {"type": "Sequence", name: [step] * 40}}


TWICE = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
PIECE = {"Sequence": {"id": "A", "type_id": 0}}
COPIES = {"type": "TemplateProcessing", "single": [PIECE, PIECE], "pair": [PIECE], "special_tokens": {}}
NESTED, LONG = "[" * 100_000, "[" * (5 << 20)
WORDS = {"type": "WordPiece", "unk_token": "x", "continuing_subword_prefix": "##", "vocab": {"x": 0}}
SLOW = {"pattern": {"Regex": "(a|a)+$"}}  # 0.07 s for 20 letters


def added(content: str, index: int = 9) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return {"id": index, "content": content, "normalized": True, **flags}


MANY = [added("a" * 20 + "b" * (index + 1), index) for index in range(1000)]


def more_templates(folder: Path, text: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").write_text(text)


# By what the message says: the file that is opened, and what was done to it.
ATTACKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "further values in arrays, where 2097152": (
        "model.gguf",
        lambda f: numbers_of_gguf(f, b"ggml.tokens", 8, 2**40),
    ),
    "tensors, where 32768": ("model.gguf", lambda f: f.write_bytes(f.read_bytes()[:8] + b"\xff" * 8)),
    "its header goes to byte": (
        "model.gguf",
        lambda f: numbers_of_gguf(f, b"general.architecture", 4, 2**60),
    ),
    "num_hidden_layers is 1000000000": ("model", lambda f: edit(f / "config.json", num_hidden_layers=10**9)),
    "rms_norm_eps is 1000": ("model", lambda f: edit(f / "config.json", rms_norm_eps=10**400)),
    "asks for (2147483646, 64)": ("model", lambda f: edit(f / "config.json", intermediate_size=2**31 - 2)),
    "has shape": ("model", lambda f: edit(f / "config.json", vocab_size=2**31 - 1)),
    "config.json is not valid JSON": ("model", lambda f: (f / "config.json").write_text(NESTED)),
    "generation_config.json is not valid JSON": (
        "model",
        lambda f: (f / "generation_config.json").write_text(NESTED),
    ),
    "index.json is not valid JSON": (
        "model",
        lambda f: (f / "model.safetensors.index.json").write_text(NESTED),
    ),
    "tokenizer.json is not valid JSON": ("model", lambda f: (f / "tokenizer.json").write_text(NESTED)),
    "tokenizer_config.json is not valid JSON": (
        "model",
        lambda f: (f / "tokenizer_config.json").write_text(NESTED),
    ),
    "config.json has more than 4 MB": ("model", lambda f: (f / "config.json").write_text("[" * (5 << 20))),
    "../../../etc/passwd leads out": (
        "model",
        lambda f: edit(f / "model.safetensors.index.json", weight_map={"x": "../../../etc/passwd"}),
    ),
    "/etc/passwd leads out": (
        "model",
        lambda f: edit(f / "model.safetensors.index.json", weight_map={"x": "/etc/passwd"}),
    ),
    "generation_config.json leads out": (
        "model",
        lambda f: linked(f / "generation_config.json", "/dev/zero"),
    ),
    "tokenizer.json leads out": ("model", lambda f: linked(f / "tokenizer.json", "../../outside")),
    "config.json is a pipe": ("model", lambda f: piped(f / "config.json")),
    "tokenizer_config.json is a pipe": ("model", lambda f: piped(f / "tokenizer_config.json")),
    "adapter_config.json leads out": ("adapter", lambda f: linked(f / "adapter_config.json", "/dev/zero")),
    "adapter_config.json is not valid JSON": (
        "adapter",
        lambda f: (f / "adapter_config.json").write_text(NESTED),
    ),
    "r 2 and lora_alpha 1000": ("adapter", lambda f: edit(f / "adapter_config.json", lora_alpha=10**400)),
    "its normalizer and pre_tokenizer may make texts over 64": (
        "model",
        lambda f: edit(f / "tokenizer.json", **doubling("normalizer", "normalizers", TWICE)),
    ),
    "its post_processor may make texts": (
        "model",
        lambda f: edit(f / "tokenizer.json", **doubling("post_processor", "processors", COPIES)),
    ),
    "may make texts over 64 times as long": (
        "model",
        lambda f: edit(f / "tokenizer.json", normalizer={"type": "Prepend", "prepend": "a" * 3_000_000}),
    ),
    "and pre_tokenizer may make texts over": (
        "model",
        lambda f: edit(f / "tokenizer.json", normalizer=TWICE | {"content": "x" * 900}),
    ),
    "max_input_chars_per_word is 1000000000": (
        "model",
        lambda f: edit(f / "tokenizer.json", model=WORDS | {"max_input_chars_per_word": 10**9}),
    ),
    "continuing_subword_prefix has over 64": (
        "model",
        lambda f: edit(f / "tokenizer.json", model=WORDS | {"continuing_subword_prefix": "#" * 3_000_000}),
    ),
    "tokenizer (it takes too long)": (
        "model",
        lambda f: edit(
            f / "tokenizer.json", normalizer=SLOW | {"type": "Replace", "content": "x"}, added_tokens=MANY
        ),
    ),
    "tokenizer (it takes too much memory)": (
        "model",
        lambda f: edit(f / "tokenizer_config.json", added_tokens_decoder={"9": added("a" * 3_000_000)}),
    ),
    "tokenizer (it takes too much": (
        "model",
        lambda f: edit(f / "special_tokens_map.json", eos_token="a" * 3_000_000),
    ),
    "tokenizer (it takes too": ("model", lambda f: edit(f / "added_tokens.json", **{"a" * 3_000_000: 9})),
    "added_tokens.json has more than 4 MB": ("model", lambda f: (f / "added_tokens.json").write_text(LONG)),
    "special_tokens_map.json has more than 4 MB": (
        "model",
        lambda f: (f / "special_tokens_map.json").write_text(LONG),
    ),
    "chat_template.jinja has more than 4 MB": (
        "model",
        lambda f: (f / "chat_template.jinja").write_text(LONG),
    ),
    "chat_templates/a.jinja has more than 4 MB": ("model", lambda f: more_templates(f, LONG)),
    "bytes of a text in an array, where 4096": (
        "model.gguf",
        lambda f: numbers_of_gguf(f, b"ggml.tokens", 16, 5000),
    ),
    "tokenizer_class 'AutoModel' is no tokenizer": (
        "model",
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="AutoModel"),
    ),
    "tokenizer_class 'RagTokenizer' is no tokenizer": (
        "model",
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="RagTokenizer"),
    ),
}


@pytest.mark.parametrize("said", ATTACKS)
def test_attack(said, copy):
    file, attack = ATTACKS[said]
    attack(copy / file)
    with pytest.raises(InputError, match=re.escape(said)):
        opened(copy, file)
    assert not fault(opened, copy, file)


PROGRAM = "open({mark!r}, 'w')\nclass Tokenizer: pass\n"


def test_no_code_of_a_folder_is_run(copy, monkeypatch):
    """Even where someone at the terminal answers y to transformers' question."""
    (copy / "model" / "own.py").write_text(PROGRAM.format(mark=str(copy / "mark")))
    edit(
        copy / "model" / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.Tokenizer", None]},
        tokenizer_class="OwnTokenizer",
    )
    monkeypatch.setattr("builtins.input", lambda *asked: "y")
    with contextlib.suppress(InputError):
        open_model(str(copy / "model"))
    assert not (copy / "mark").exists()


def test_a_snapshot_of_the_hubs_cache_is_links(whole, tmp_path):
    """Links to the cache's own blobs are followed, and no others."""
    cache, snapshot = tmp_path / "models--a--b", tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(whole / "model", cache / "blobs")
    snapshot.mkdir(parents=True)
    for path in (cache / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    open_model(str(snapshot))
    (snapshot / "more.json").symlink_to("../../refs")
    with pytest.raises(InputError, match=r"more\.json leads out of the folder"):
        open_model(str(snapshot))


def test_an_expression_that_gives_up_on_a_text(copy):
    """The library raises a BaseException there, and only for texts like this one."""
    edit(
        copy / "model" / "tokenizer.json",
        pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "(a|aa)+$b|(a*)*b"}, "behavior": "Isolated", "invert": False
        },
    )  # fmt: skip
    tokenizer = open_model(str(copy / "model")).tokenizer
    with pytest.raises(InputError, match="the tokenizer fails on 'aaa"):
        bare_ids("a" * 3000, tokenizer)


@pytest.mark.parametrize("word", ["a" * 20 + "b ", "x "])
def test_a_turns_end_is_found_without_the_tokenizers_steps(copy, word):
    """Each word of 20 letters takes this expression 0.07 s, and a template may write 12,000."""
    split = {"type": "Split", "behavior": "Isolated", "invert": False, **SLOW}
    edit(copy / "model" / "tokenizer.json", pre_tokenizer=split)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<|system|>{{ '" + word + "' * 9000 }}"
    (copy / "model" / "chat_template.jinja").write_text(template)
    assert open_model(str(copy / "model")).ends == (1, 2)
    assert not fault(opened, copy, "model")


def test_a_system_that_limits_no_memory(whole, tmp_path, monkeypatch):
    """macOS; every tokenizer took too much of it."""
    refuse_to_limit_memory(tmp_path, monkeypatch)
    _refusal.cache_clear()
    folder_tokenizer(whole / "model")


def test_many_added_tokens(copy):
    """Gemma 3 has 6,415, and so long a list of them."""
    tokens = {str(index): added(f"<unused{index}>", index) for index in range(300, 6700)}
    edit(copy / "model" / "config.json", vocab_size=7000)
    edit(copy / "model" / "tokenizer_config.json", added_tokens_decoder=tokens)
    assert len(folder_tokenizer(copy / "model")) >= 6400
