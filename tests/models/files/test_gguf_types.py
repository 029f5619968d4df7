"""Every type of GGUF tensor: read as the ``gguf`` package dequantizes it, or refused by its name."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from cann_jax.files.errors import InputError
from cann_jax.models.files.gguf import gguf_readers

COLUMNS = 256  # a multiple of every type's block
READ = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ3_XXS",
    "IQ3_S",
    "IQ4_NL",
    "IQ4_XS",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
    "NVFP4",
]
REFUSED = ("Q8_1", "Q8_K", "I16")


def raw(kind: Type, rows: int) -> np.ndarray:
    """Random bytes of the type's layout; any bits are numbers to it, some of them NaN."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return np.random.default_rng(int(kind)).integers(0, 256, (rows, COLUMNS // block * size), dtype=np.uint8)


def reader_of(path, kind: Type, data: np.ndarray):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_readers(gguf.GGUFReader(path), heads=4, kv_heads=2, path=path)[
        "model.layers.0.mlp.up_proj.weight"
    ]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # random bytes hold NaN scales
@pytest.mark.parametrize("name", READ)
def test_type_is_read(name, tmp_path):
    kind, data = Type[name], raw(Type[name], rows=8)
    reader = reader_of(tmp_path / "one.gguf", kind, data)
    expected = gguf.quants.dequantize(data, kind)
    assert reader.shape == expected.shape == (8, COLUMNS)
    np.testing.assert_array_equal(reader(), expected)
    np.testing.assert_array_equal(reader((slice(2, 5),)), expected[2:5])


@pytest.mark.parametrize("name", REFUSED)
def test_type_that_cannot_be_read_is_named(name, tmp_path):
    reader = reader_of(tmp_path / "one.gguf", Type[name], raw(Type[name], rows=8))
    with pytest.raises(InputError, match=f"has type {name}, which cannot be read"):
        reader()


def test_no_type_is_forgotten():
    """A newer ``gguf`` that reads more types must show up here."""
    known = {kind.name for kind in gguf.quants._type_traits} | {"F32", "F16"}
    assert set(READ) == known
