"""Every RoPE scaling: the angles of transformers, below and beyond the trained length."""

import jax.numpy as jnp
import numpy as np
import pytest

from cann_jax.files.errors import InputError
from cann_jax.models.config_reader import ConfigReader
from cann_jax.models.families import FAMILIES
from cann_jax.models.rope import Rope, rotate

TRAINED = 64
SHORT, LONG = [1.0 + 0.1 * n for n in range(8)], [2.0 + n for n in range(8)]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
    "yarn": YARN,
    "yarn, attention_factor": YARN | {"attention_factor": 1.7},
    "yarn, betas": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, not truncated": YARN | {"truncate": False},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": TRAINED,
    },
    "longrope, factor": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "factor": 7.0,
        "original_max_position_embeddings": TRAINED,
    },
    "longrope, attention_factor": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "attention_factor": 0.6,
        "original_max_position_embeddings": TRAINED,
    },
}
POSITIONS = 256  # max_position_embeddings; "dynamic" takes it for the trained length


def torch_tables(scaling: dict, positions: np.ndarray) -> list[np.ndarray]:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=POSITIONS,
        rope_parameters={"rope_theta": 5e3, **scaling},
    )  # fmt: skip
    tables = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions)[None])
    return [table[0].numpy() for table in tables]


def read(scaling: dict, **beside) -> Rope:
    return Rope.from_hf({"rope_theta": 5e3, **scaling, **beside}, 16, POSITIONS, "config.json")


@pytest.mark.parametrize("length", [40, 200, 3000])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_tables_equal_transformers(scaling, length):
    positions = np.arange(length)[-300:]
    ours = read(scaling).tables(jnp.asarray(positions)[None], jnp.array([[length]]))
    for table, expected in zip(ours, torch_tables(scaling, positions), strict=True):
        # One unit in the last place of a frequency is 3e-4 radians at position 3,000.
        np.testing.assert_allclose(table[0], expected, atol=2e-7 * length + 1e-6)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_written_as_read(scaling):
    rope = read(scaling)
    assert Rope.from_hf(rope.to_hf(), 16, POSITIONS, "written") == rope


CHANGED = [
    ("default", {"rope_theta": 6e3}, 40),
    ("default", {"partial_rotary_factor": 0.5}, 40),
    ("linear", {"factor": 4.0}, 40),
    ("dynamic", {"factor": 3.0}, 300),
    ("llama3", {"factor": 7.0}, 40),
    ("llama3", {"low_freq_factor": 0.5}, 40),
    ("llama3", {"high_freq_factor": 9.0}, 40),
    ("llama3", {"original_max_position_embeddings": 128}, 40),
    ("yarn", {"factor": 5.0}, 40),
    ("yarn", {"original_max_position_embeddings": 512}, 40),
    ("yarn", {"attention_factor": 1.5}, 40),
    ("yarn, not truncated", {"beta_fast": 8.0}, 40),
    ("yarn, not truncated", {"beta_slow": 2.0}, 40),
    ("yarn, mscale", {"mscale": 0.9}, 40),
    ("yarn, mscale", {"mscale_all_dim": 0.9}, 40),
    ("yarn", {"truncate": False}, 40),
    ("longrope", {"short_factor": LONG}, 40),
    ("longrope", {"long_factor": SHORT}, 100),
    ("longrope", {"original_max_position_embeddings": 128}, 100),
    ("longrope", {"factor": 2.0}, 40),
    ("longrope", {"attention_factor": 2.0}, 40),
]


@pytest.mark.parametrize(("name", "change", "length"), CHANGED)
def test_every_key_is_read(name, change, length):
    """Another value, other tables."""
    positions, lengths = jnp.arange(40)[None], jnp.array([[length]])
    plain, changed = (read(SCALINGS[name], **keys).tables(positions, lengths) for keys in ({}, change))
    assert plain[0].shape != changed[0].shape or np.abs(np.subtract(plain, changed)).max() > 1e-3


def test_dynamic_goes_by_each_row_alone():
    """A longer row beside it changes nothing; the batch's longest, as in transformers, would."""
    rope, positions = read(SCALINGS["dynamic"]), jnp.arange(300)
    both = rope.tables(jnp.stack([positions, positions]), jnp.array([[100], [300]]))
    alone = rope.tables(positions[None], jnp.array([[100]]))
    np.testing.assert_array_equal(both[0][0], alone[0][0])
    assert np.abs(both[0][1] - both[0][0]).max() > 0.1


def test_part_of_a_head():
    """The first coordinates turn, the others stay."""
    rope = read({"rope_type": "default", "partial_rotary_factor": 0.5})
    tables = rope.tables(jnp.arange(7)[None], jnp.array([[7]]))
    x = np.random.default_rng(0).normal(size=(1, 7, 2, 16)).astype(np.float32)
    turned = rotate(x, tables)
    half = Rope(8, 5e3).tables(jnp.arange(7)[None], jnp.array([[7]]))
    np.testing.assert_allclose(turned[..., :8], rotate(x[..., :8], half), rtol=1e-6)
    np.testing.assert_array_equal(turned[..., 8:], x[..., 8:])
    assert Rope.from_hf(rope.to_hf(), 16, POSITIONS, "written") == rope


REFUSED = {
    "RoPE scaling 'ntk' is not supported": {"rope_type": "ntk"},
    "RoPE scaling 'linear' lacks 'factor'": {"rope_type": "linear"},
    "RoPE scaling 'llama3' lacks 'high_freq_factor'": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
    },
    "RoPE scaling 'default' has no 'mrope_section'": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    "RoPE scaling 'dynamic' has no 'alpha'": {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000},
    "RoPE's factor is '8'": {"rope_type": "linear", "factor": "8"},
    "RoPE's factor is -1": {"rope_type": "linear", "factor": -1},
    "RoPE's truncate is 1": YARN | {"truncate": 1},
    "RoPE's short_factor is [1.0]": SCALINGS["longrope"] | {"short_factor": [1.0]},
    "rope_theta is None": {"rope_theta": None},
    "partial_rotary_factor is 0.2": {"partial_rotary_factor": 0.2},
    "partial_rotary_factor is 1.5": {"partial_rotary_factor": 1.5},
}


@pytest.mark.parametrize("said", REFUSED)
def test_refused(said):
    with pytest.raises(InputError) as error:
        read(REFUSED[said])
    assert said in str(error.value) and str(error.value).startswith("config.json: ")


OLDER = {
    "before transformers 5": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "trained length beside": {
        "rope_scaling": {k: v for k, v in YARN.items() if k != "original_max_position_embeddings"},
        "original_max_position_embeddings": 32,
    },
    "trained length on both sides": {"rope_scaling": YARN, "original_max_position_embeddings": 32},
    "beside rope_parameters": {
        "rope_theta": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
    },
    "null beside rope_parameters": {
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
    },
    "the whole length": {"rope_scaling": {k: v for k, v in YARN.items() if "original" not in k}},
}


@pytest.mark.parametrize("keys", OLDER.values(), ids=OLDER)
def test_older_files(keys):
    """What transformers makes of the same keys."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    shape = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
    config = LlamaConfig.from_dict({**shape, **keys})
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(100)[None])
    fields = ConfigReader({"rope_theta": 1e4, **shape, **keys}, "config.json")
    rope = FAMILIES["llama"].kinds(fields, 16, 1)[0].rope
    for table, other in zip(rope.tables(jnp.arange(100)[None], jnp.array([[100]])), expected, strict=True):
        np.testing.assert_allclose(table[0], other[0], atol=2e-5)
