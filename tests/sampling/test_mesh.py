"""How many devices share a copy of the weights for sampling."""

from pathlib import Path

import pytest
from flax import nnx

from cann_jax.files.atomic import read_json
from cann_jax.models.config import DecoderConfig
from cann_jax.models.files.load import abstract_decoder
from cann_jax.sampling.mesh import ROOM, Batch, bytes_needed, sharing

V5E, V5P = 16e9, 95e9
BATCH = Batch(prompts=16, responses=16, width=512, length=512)


def model(name: str):
    path = Path("configs/models") / f"{name}.json"
    shape = DecoderConfig.from_hf(read_json(path), str(path))
    return nnx.split(abstract_decoder(shape, "bfloat16", None))[1], shape


@pytest.fixture(scope="module")
def llama():
    return model("llama-7b")


def test_bytes_of_llama_7b(llama):
    """6,738,415,616 parameters, of which 2 · 32,000 · 4,096 are in tables that no device shares."""
    tables, matrices = 2 * 32_000 * 4_096, 32 * 4_096 * (4 * 4_096 + 3 * 11_008)
    tokens = 2 * (512 + 16 * 512)  # of two prompts of 16 on 8 copies, each with its responses
    cache = 2 * 32 * 16 * 128 * tokens
    logits = 3 * 4 * 2 * 16 * 32_000
    expected = 2 * tables + 2 * matrices / 2 + 2 * cache + logits
    found = bytes_needed(*llama, BATCH, copies=8, shared=2)
    # All but the norms, which are smaller, and float32 on a CPU as everywhere.
    assert found == pytest.approx(expected, rel=2e-3) and found > expected


def test_slots_hold_their_own_prompts(llama):
    """Of 256 responses 64 are in progress, each beside a copy of its prompt; 256 slots replace nothing."""
    token = 2 * 2 * 32 * 16 * 128
    logits = 3 * 4 * 32_000
    found = {
        slots: bytes_needed(*llama, BATCH._replace(slots=slots), copies=8, shared=2)
        for slots in (None, 64, 256)
    }
    assert found[256] == found[None]
    saved = (32 - 8) * (512 * token + logits) - 8 * 512 * token
    assert found[None] - found[64] == pytest.approx(saved)


@pytest.mark.parametrize(
    "name, devices, memory, batch, expected",
    [
        ("llama-7b", 16, V5E, BATCH, 2),  # 13.5 GB of weights and 4.3 GB of keys and values do not fit one
        ("llama-7b", 64, V5P, BATCH._replace(prompts=64), 1),
        ("llama-7b", 64, V5P, BATCH, 4),  # 16 prompts feed no more than 16 copies
        ("llama-3-8b", 16, V5E, BATCH, 2),
        ("llama-3-70b", 16, V5E, BATCH, None),  # and 8 KV heads divide by no more than 8
        ("llama-3-70b", 64, V5P, BATCH._replace(prompts=32), 2),
        ("llama-7b", 6, V5P, BATCH._replace(prompts=6), 1),
        ("llama-7b", 3, V5E, BATCH._replace(prompts=3), None),  # 32 heads do not divide by 3
    ],
)  # fmt: skip
def test_the_least_that_fits(name, devices, memory, batch, expected, llama):
    weights, shape = llama if name == "llama-7b" else model(name)
    assert sharing(weights, shape, batch, devices, memory) == expected
    if expected is not None:
        needed = bytes_needed(weights, shape, batch, devices // expected, expected)
        assert needed <= ROOM * memory
