"""Pickled weights: what torch saved is read without torch, and no file can make this program do anything."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cann_jax.files.errors import InputError
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.models.files.pickled import pickled_tensors
from tests.builders.forward import our_logits, random_ids
from tests.builders.limits import fault

WIDTHS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        {name: tensor.read() for name, tensor in pickled_tensors(path).items()}
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
def test_every_width(tmp_path, dtype):
    path, value = tmp_path / "x.bin", (torch.randn(3, 5) * 9).to(dtype)
    torch.save({"x": value}, path)
    read = pickled_tensors(path)["x"].read()
    expected = value.float().numpy() if dtype == torch.bfloat16 else value.numpy()
    assert read.dtype.name == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(read.astype(expected.dtype), expected)


def test_views_of_one_storage(tmp_path):
    whole = torch.arange(60.0).reshape(3, 4, 5)
    views = {
        "whole": whole,
        "part": whole[1, 1:3],
        "turned": whole.permute(2, 0, 1),
        "every other": whole[:, ::2, 1::3],
        "number": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
    }
    torch.save(views, tmp_path / "x.bin")
    for name, tensor in pickled_tensors(tmp_path / "x.bin").items():
        np.testing.assert_array_equal(tensor.read(), views[name].numpy(), err_msg=name)
        assert tensor.shape == tuple(views[name].shape)


def test_a_part_is_read_alone(tmp_path):
    value = torch.randn(6, 8)
    torch.save({"x": value.T}, tmp_path / "x.bin")
    index = (slice(2, 5), slice(1, 3))
    np.testing.assert_array_equal(pickled_tensors(tmp_path / "x.bin")["x"].read(index), value.T[index])


def test_state_dictionary_of_a_module(tmp_path):
    """It carries an attribute of its own, so that its pickle holds a BUILD opcode."""
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)).state_dict()
    torch.save(state, tmp_path / "x.bin")
    assert set(pickled_tensors(tmp_path / "x.bin")) == set(state)


def as_bin(folder: Path, target: Path, shards: int = 1) -> Path:
    """A copy of a model folder whose weights are pickled, as folders of 2023 have them."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = list(load_file(folder / "model.safetensors").items())
    if shards == 1:
        torch.save(dict(tensors), target / "pytorch_model.bin")
        return target
    places = {}
    for shard in range(shards):
        name = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        torch.save(dict(tensors[shard::shards]), target / name)
        places |= dict.fromkeys(dict(tensors[shard::shards]), name)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return target


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_folder_equals_its_safetensors(tiny_folder, tiny, tmp_path, shards):
    folder, ids = as_bin(tiny_folder, tmp_path / "bin", shards), random_ids((2, 9))
    files = open_model(str(folder))
    assert sum(path.suffix == ".bin" for path in files.files) == shards
    np.testing.assert_array_equal(our_logits(load_decoder(files, "float32"), ids), our_logits(tiny, ids))


def test_missing_pickled_shard(tiny_folder, tmp_path):
    folder = as_bin(tiny_folder, tmp_path / "bin", 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(InputError, match=r"pytorch_model-00002-of-00003\.bin is missing; copy the whole"):
        open_model(str(folder))


def test_torch_is_not_imported(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "x.bin")
    code = (
        "import sys; from pathlib import Path; from cann_jax.models.files.pickled import pickled_tensors\n"
        f"[t.read() for t in pickled_tensors(Path({str(tmp_path / 'x.bin')!r})).values()]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **more) -> Path:
    """A file like ``torch.save``'s around any pickle."""
    with zipfile.ZipFile(path, "w", **more) as file:
        file.writestr("x/data.pkl", data)
        for key, content in (storages or {}).items():
            file.writestr(f"x/data/{key}", content)
    return path


class Calls:
    """Pickles as a call of ``function`` when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


HOSTILE = {
    "posix.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "builtins.eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    "builtins.open": lambda mark: Calls(open, str(mark), "w"),
    "subprocess.check_output": lambda mark: Calls(subprocess.check_output, ["touch", str(mark)]),
    "builtins.getattr": lambda mark: Calls(getattr, dict, "clear"),
    "torch.load": lambda mark: Calls(torch.load, str(mark)),
    "torch._utils._rebuild_parameter": lambda mark: Calls(torch._utils._rebuild_parameter, 1, True, {}),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused_and_does_nothing(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    data = pickle.dumps({"w": HOSTILE[name](mark)}, protocol)
    said = refused(archive(tmp_path / "x.bin", data))
    # Old protocols call modules by their names in Python 2.
    assert f".{name.rpartition('.')[2]}, which is not part of a tensor, and was not run" in said
    assert not mark.exists()


def test_the_hostile_pickle_works_where_nothing_guards(tmp_path):
    """Else the test above would prove nothing."""
    pickle.loads(pickle.dumps(HOSTILE["posix.system"](tmp_path / "mark"), 2))
    assert (tmp_path / "mark").exists()


def test_hostile_folder_is_refused(tiny_folder, tmp_path):
    folder = as_bin(tiny_folder, tmp_path / "bin")
    archive(folder / "pytorch_model.bin", pickle.dumps({"w": HOSTILE["builtins.open"](tmp_path / "mark")}, 2))
    with pytest.raises(InputError, match="was not run; do not trust the file"):
        open_model(str(folder))
    assert not (tmp_path / "mark").exists()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor_pickle(shape=(2, 2), strides=(2, 1), offset=0, items=4, key="0", rebuild=REBUILD) -> bytes:
    """A tensor as torch pickles it, from any numbers."""

    def row(values) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<i", len(value)) + value.encode()

    count = b"J" + struct.pack("<i", items)
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count + b"tQ"
    start = b"J" + struct.pack("<i", offset)
    arguments = b"(" + storage + start + row(shape) + row(strides) + b"\x89" + b"N" + b"t"
    return b"\x80\x02}" + text("x") + rebuild + arguments + b"Rs."


def test_the_handmade_pickle_is_read(tmp_path):
    path = archive(tmp_path / "x.bin", tensor_pickle(), {"0": np.arange(4.0, dtype="f4").tobytes()})
    np.testing.assert_array_equal(pickled_tensors(path)["x"].read(), [[0, 1], [2, 3]])


IMPOSSIBLE = {
    "exceeds": {"shape": (2, 3)},
    "exceeds its storage's": {"strides": (400, 1)},
    "exceeds its": {"offset": 1},
    "too few for 4000 numbers": {"items": 4000, "shape": (4000,), "strides": (1,)},
    "unknown kind": {"offset": -4},
    "a tensor of an unknown": {"strides": (-2, 1)},
    "a tensor of an": {"shape": (-2, 2)},
    "KeyError": {"key": "elsewhere"},
    "zip() argument": {"strides": (2, 1, 1)},
    "an expanded view, of shape (8000, 8000) over 4 numbers": {"shape": (8000, 8000), "strides": (0, 0)},
    "tensor of an unknown kind": {"shape": (1,) * 9, "strides": (1,) * 9},
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_impossible_tensor(tmp_path, said):
    assert said in refused(archive(tmp_path / "x.bin", tensor_pickle(**IMPOSSIBLE[said]), {"0": bytes(16)}))


def test_attributes_cannot_be_set(tmp_path):
    """BUILD sets attributes of what it is given: a tensor's strides after they were checked, or its path."""
    whole = {"0": np.arange(4.0, dtype="f4").tobytes()}
    for state in (b"}X\x07\x00\x00\x00stridesNs", b"N}X\x07\x00\x00\x00stridesNs\x86", b"(NNNNNNNt"):
        data = tensor_pickle().replace(b"Rs.", b"R" + state + b"bs.")
        assert "does not hold plain tensors (" in refused(archive(tmp_path / "x.bin", data, whole))
        data = tensor_pickle(rebuild=REBUILD + state + b"b")
        assert "does not hold plain tensors (" in refused(archive(tmp_path / "x.bin", data, whole))
    test_the_handmade_pickle_is_read(tmp_path)


def test_not_a_state_dictionary(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "x.bin")
    assert "holds a list instead of named tensors" in refused(tmp_path / "x.bin")
    torch.save({"x": torch.ones(2), "step": 7}, tmp_path / "x.bin")
    assert "'step' is a int, not a tensor" in refused(tmp_path / "x.bin")


def test_formats_that_are_not_read(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "older than torch 1.6" in refused(path)
    assert "is compressed" in refused(
        archive(path, tensor_pickle(), {"0": bytes(16)}, compression=zipfile.ZIP_DEFLATED)
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/other", b"")
    assert "without data.pkl" in refused(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated(tmp_path, share):
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(100)}, buffer)
    (tmp_path / "x.bin").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    assert "truncated" in refused(tmp_path / "x.bin")


def test_numbers_and_compression_that_take_the_memory(tmp_path):
    """The ordinary unpickler's memo grows to the index in the file: 16 GB for this one."""
    data = tensor_pickle().replace(b"}", b"}r\xff\xff\xff\x3f", 1)
    assert not fault(pickled_tensors, archive(tmp_path / "x.bin", data, {"0": bytes(16)}))
    bomb = archive(tmp_path / "x.bin", bytes(100 << 20), {}, compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in refused(bomb) and bomb.stat().st_size < 1 << 20
    bomb = archive(tmp_path / "x.bin", b"}.", {}, compression=zipfile.ZIP_STORED)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/byteorder", bytes(100 << 20))
    assert "is compressed" in refused(bomb) and not fault(pickled_tensors, bomb)


def test_what_torch_may_save(tmp_path):
    """One tensor or storage under two names, a transposed one, and any of torch's protocols."""
    tied, whole = torch.randn(3, 4), torch.arange(12.0)
    state = {"a": tied, "b": tied, "c": tied.T, "d": whole[:4], "e": whole[4:].reshape(4, 2)}
    for protocol in (1, 2, 3, 4, 5):
        torch.save(state, tmp_path / "x.bin", pickle_protocol=protocol)
        for name, tensor in pickled_tensors(tmp_path / "x.bin").items():
            np.testing.assert_array_equal(tensor.read(), state[name].numpy())


TWICE, SOME = b"h\x00h\x00\x86q\x00", (1 << 19) - 99
# By what the message says, of what would take an unpickler years, or this program more than 200 MB.
ENDLESS = {
    "the opcode DUP, which no state": b"}" + b")" + b"2\x86" * 40 + b"Ns",
    "the key ((((": b")q\x00" + TWICE * 40 + b"}h\x00Ns",
    "the key [[[[": b"]q\x00(h\x00h\x00e}h\x00Ns",
    "the key 2305843009213693951, which is not a text": b"}\x8a\x08" + b"\xff" * 7 + b"\x1f" + b"Ns",
    "unknown reference ((((": b")q\x00" + TWICE * 40 + b"(h\x00h\x00h\x00h\x00h\x00tQ",
    "keys in a tuple": b"))Ns",
    "attributes of a tuple": b"))b",
    "a call of a dict": b"})R",
    "a value is missing": b"}(\x86",
    "has more than 512 KB": b"}" * (SOME + 100),
    "holds a tuple instead": b")" * SOME,
    "holds a list instead": b"}" + b"]\x94" * (SOME // 2),
}


@pytest.mark.parametrize("said", ENDLESS)
def test_pickles_that_take_long(tmp_path, said):
    path = archive(tmp_path / "x.bin", b"\x80\x02" + ENDLESS[said] + b".")
    assert said in refused(path)
    assert not fault(pickled_tensors, path)


def test_an_expanded_view_takes_nothing(tmp_path):
    data = tensor_pickle(shape=(8000, 8000), strides=(0, 0), items=1)
    path = archive(tmp_path / "x.bin", data, {"0": bytes(4)})
    assert not fault(lambda: [tensor.read() for tensor in pickled_tensors(path).values()])


def test_a_storage_is_in_the_file(tmp_path):
    """The archive's directory says how large it is."""
    path = archive(
        tmp_path / "x.bin", tensor_pickle(shape=(4000,), strides=(1,), items=4000), {"0": b"0" * 16}
    )
    content = path.read_bytes()
    at = content.rindex(b"PK\1\2") + 20
    sizes = (16000).to_bytes(4, "little") * 2
    path.write_bytes(content[:at] + sizes + content[at + 8 :])
    assert "'x/data/0' goes beyond the end of the file" in refused(path)


def test_a_directory_of_many_entries(tmp_path):
    path = archive(tmp_path / "x.bin", b"}.", dict.fromkeys(map(str, range(12_000)), b""))
    assert "has more than 512 KB" in refused(path)
