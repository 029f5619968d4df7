"""Proposed settings: their bytes and seconds against compiled programs, and what they say."""

import json

import pytest
from cann_jax_tools.chips import devices_named, slice_of
from cann_jax_tools.sizing import ROOM, Step, best_sampling, best_training, training_plans

from benchmarks.compile_table import ALL_WEIGHTS, Row, rows
from cann_jax import train
from cann_jax.config.training import LoraConfig
from cann_jax.files.atomic import read_json
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.sampling.mesh import Batch
from tests.builders import ROOT

COMPILED = [row for row in rows() if row.program == "train" and row.flags in ((), ALL_WEIGHTS)]
POD = ["--config", "configs/pod.yaml", "--dry_run", "--model_config"]


def shape_of(name: str) -> DecoderConfig:
    path = ROOT / f"configs/models/{name}.json"
    return DecoderConfig.from_hf(read_json(path), str(path))


def step_of(row: Row) -> Step:
    """configs/pod.yaml, of whose adapters the rows that train all weights have none."""
    return Step(row.prompts, 512, 2, 512, None if row.flags else LoraConfig(), 8)


def test_against_the_compiler():
    assert len(COMPILED) == 42
    bytes_, seconds = [], []
    for row in COMPILED:
        (figures,), where = json.loads(row.file.read_text()), slice_of(row.topology)
        plans = list(training_plans(shape_of(row.model), step_of(row), where, "bfloat16"))
        (as_compiled,) = [
            plan
            for plan in plans
            if plan.mesh == (1, where.chips, 1)
            and (plan.accumulation, plan.rematerialise) == (1, "everything")
        ]
        if "error" in figures:
            assert as_compiled.bytes > where.chip.memory, row
            continue
        bytes_.append(as_compiled.bytes / figures["peak"])
        seconds.append(as_compiled.seconds / figures["seconds"])
        best = best_training(plans, where.chip.memory)
        assert (
            best is not None
            and best.bytes <= ROOM * where.chip.memory
            and best.seconds <= as_compiled.seconds
        )
    print(f"bytes {min(bytes_):.2f} to {max(bytes_):.2f}, seconds {min(seconds):.2f} to {max(seconds):.2f}")
    assert len(bytes_) == 38 and min(bytes_) > ROOM  # what is planned fits
    assert max(bytes_) < 1.4 and 0.9 < min(seconds) < max(seconds) < 1.1


def test_sampling_against_the_compiler():
    """Laid out by the TPU compiler: 11.57 GB and 7.12 s for 16 prompts, 11.42 GB and 7.23 s for 32."""
    batch = Batch(16, 16, 512, 512)
    found = best_sampling(shape_of("llama-7b"), batch, 16, slice_of("v5e:4x4"), "bfloat16")
    assert (found.prompts, found.copies, found.shared) == (16, 8, 2)
    assert found.bytes == pytest.approx(11.57e9, rel=0.05) and found.seconds == pytest.approx(7.12, rel=0.1)
    found = best_sampling(
        shape_of("llama-7b"), batch._replace(prompts=40), 16, slice_of("v5e:4x4"), "bfloat16"
    )
    assert found.prompts == 32  # a multiple of 16, 40 at most
    assert found.bytes == pytest.approx(11.42e9, rel=0.05) and found.seconds == pytest.approx(7.23, rel=0.1)


def test_the_command(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    train.main([*POD, "configs/models/llama-3-8b.json", "--device", "h200:8"])
    out = capsys.readouterr().out
    assert "h200:8: 8 devices of 141 GB; what fits, estimated from sizes:" in out
    assert "  --mesh.data=8 --mesh.fsdp=1 --mesh.tensor=1\n" in out
    assert "  --align.accumulation=1 --align.rematerialise=elementwise\n" in out
    assert "8 copies of the weights, each on 1 device" in out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["llama-3-8b.json", "--device", "h300"], "--device 'h300': write a TPU slice"),
        (["llama-3-8b.json", "--device", "v5e"], "--device 'v5e': write a TPU slice"),
        (["llama-3-70b.json", "--device", "h100"], "align: a step needs 1.+ GB a device at least"),
        (["llama-7b.json", "--device", "v5e:3x1"], "align: no mesh divides the model and the prompts"),
    ],
)
def test_refused_in_one_line(flags, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message):
        train.main([*POD, f"configs/models/{flags[0]}", *flags[1:]])


def test_a_flag_of_the_dry_run():
    with pytest.raises(InputError, match="--device belongs to --dry_run"):
        train.main(["--config", str(ROOT / "configs/pod.yaml"), "--device", "h100"])


def test_named_devices():
    assert devices_named("h100").chips == 1 and devices_named("h100").interconnect == 0
    assert devices_named("h200:8").interconnect == pytest.approx(450e9)
    assert devices_named("v5p:4x4x4").chips == 64
