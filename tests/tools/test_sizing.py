"""Proposed settings: their bytes and seconds against compiled programs, and what they say."""

import json

import pytest
from cann_jax_tools.chips import devices_named, slice_of
from cann_jax_tools.sizing import (
    ROOM,
    Step,
    best_sampling,
    best_training,
    sampling_plan,
    training_plan,
    training_plans,
)

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


def seconds_of(device: str, mesh: tuple[int, int, int], dtype: str) -> float:
    step = Step(64, 512, 2, 512, LoraConfig(), 8)
    return training_plan(
        shape_of("llama-7b"), step, devices_named(device), dtype, mesh, 1, "everything"
    ).seconds


def test_float32_has_larger_activations():
    """Products, 4096 · 5 + 11008 · 2 numbers a token and layer, and frozen weights have 2 bytes more each."""
    step, where, mesh = Step(64, 512, 2, 512, LoraConfig(), 8), slice_of("v5e:4x4"), (1, 16, 1)
    sizes = {
        (dtype, kept): training_plan(shape_of("llama-7b"), step, where, dtype, mesh, 1, kept).bytes
        for dtype in ("float32", "bfloat16")
        for kept in ("elementwise", "everything")
    }
    kept = {
        dtype: sizes[dtype, "elementwise"] - sizes[dtype, "everything"] for dtype in ("float32", "bfloat16")
    }
    assert kept["bfloat16"] == 2 * 32 * 4 * 1536 * (4096 * 5 + 11008 * 2)
    assert kept["float32"] == 2 * kept["bfloat16"]
    work = sizes["float32", "everything"] - sizes["bfloat16", "everything"] - 2 * 6.74e9 / 16
    assert work == pytest.approx(
        2 * (4 * 1536 * (3 * 11008 + 4 * 3 * 4096) + 202.4e6 + 2 * 4000 * 4096), rel=0.01
    )


def test_float32_takes_longer():
    """JAX rounds factors of products to bfloat16 on a TPU and to TF32 on a GPU; what is exchanged doubles."""
    assert seconds_of("v5e:4x4", (1, 16, 1), "float32") == seconds_of("v5e:4x4", (1, 16, 1), "bfloat16")
    exchanged = [seconds_of("v5e:4x4", (1, 1, 16), dtype) for dtype in ("float32", "bfloat16")]
    assert exchanged[0] == pytest.approx(2 * exchanged[1], rel=0.01)
    assert seconds_of("h100", (1, 1, 1), "float32") == 2 * seconds_of("h100", (1, 1, 1), "bfloat16")
    many = Batch(64, 16, 16, 16)  # so short that products take longer than reading
    sampled = [
        sampling_plan(shape_of("llama-7b"), many, devices_named("h100"), dtype)
        for dtype in ("float32", "bfloat16")
    ]
    assert sampled[0].seconds == pytest.approx(2 * sampled[1].seconds)


def test_sampling_in_slots():
    """A quarter of the responses at once: fewer bytes, and a token for each takes its turn."""
    batch, where = Batch(16, 16, 512, 512), slice_of("v5e:4x4")
    whole, slots = (
        sampling_plan(shape_of("llama-7b"), each, where, "bfloat16")
        for each in (batch, batch._replace(slots=64))
    )
    assert slots.bytes < whole.bytes and slots.seconds > 2 * whole.seconds


def test_the_command(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    train.main([*POD, "configs/models/llama-3-8b.json", "--device", "h200:8"])
    out = capsys.readouterr().out
    assert "yours: mesh 1×8×1, accumulation 1, everything: align needs 1" in out
    assert "yours: sampling 16 × 16 responses needs " in out
    assert " 2 batches, " in out and "float32" not in out  # of the 320 prompts
    assert "not counted in time: compiling, log-probs of the reference, the stages score, evaluate\n" in out
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
        (["llama-3-70b.json", "--device", "v5e:4x4"], "planned; use more devices, or shorter prompts"),
        (
            ["llama-3-8b.json", "--device", "h100", *ALL_WEIGHTS, "--export=[merged]"],
            r"use more devices, adapters \(align.lora\), or shorter prompts",
        ),
        (
            ["llama-7b.json", "--device", "h100:7", "--align.prompts_per_step", "60"],
            "align: no mesh divides the model and the prompts",
        ),
    ],
)
def test_refused_in_one_line(flags, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message):
        train.main([*POD, f"configs/models/{flags[0]}", *flags[1:]])


@pytest.mark.parametrize(
    "flags, line",
    [
        (
            ["--mesh.fsdp", "1", "--mesh.tensor", "8"],
            "yours: mesh.tensor is 8 and the model's KV heads 4; use a",
        ),
        (
            ["--mesh.fsdp", "4", "--mesh.tensor", "3"],
            "yours: mesh: data 1 × fsdp 4 × tensor 3 does not fit 8",
        ),
        (
            ["--sample.prompts_per_batch", "4"],
            "yours: sample.prompts_per_batch is 4 and does not divide over 8",
        ),
        (
            ["--align.prompts_per_step", "8192"],
            "yours: mesh 1×8×1, accumulation 1, everything: align needs 489.4 of 80 GB",
        ),
        (["--sample.responses", "8192"], "yours: sampling 16 × 8192 responses: they do not fit beside whole"),
        (["--model.dtype", "float32"], "model.dtype float32: JAX multiplies it as TF32, at half the peak"),
    ],
)
def test_the_configuration_as_given(flags, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    shape = read_json(ROOT / "configs/models/llama-3.2-1b.json") | {"num_key_value_heads": 4}
    (tmp_path / "model.json").write_text(json.dumps(shape))
    train.main([*POD, str(tmp_path / "model.json"), "--device", "h100:8", *flags])
    out = capsys.readouterr().out
    assert line in out and "h100:8: 8 devices of 80 GB; what fits" in out
    assert ("; too much" in out) == ("--align.prompts_per_step" in flags)


def test_nothing_trained(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    train.main([*POD, "llama-3.2-1b", "--device", "v5e:2x2", "--evaluate.policy", "reference"])
    out = capsys.readouterr().out
    assert "sampling 16 × 16 responses" in out and "align" not in out and "--mesh" not in out


def test_models_of_scorers(capsys, monkeypatch, tmp_path):
    """One folder at hand, of 1.24 G parameters in bfloat16, and one on the Hub, which is not asked."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "helpful").mkdir()
    (tmp_path / "helpful/config.json").write_text((ROOT / "configs/models/llama-3.2-1b.json").read_text())
    scorer = "{kind: reward_model, better: higher, dtype: bfloat16, path: "
    text = (ROOT / "configs/pod.yaml").read_text()
    text = text.replace("{kind: relevance}", f"{scorer}{tmp_path / 'helpful'}}}")
    (tmp_path / "pod.yaml").write_text(text.replace("{kind: inoffensive}", f"{scorer}of/harmless}}"))
    command = ["--config", str(tmp_path / "pod.yaml"), "--dry_run", "--model_config", "llama-3.2-1b"]
    train.main([*command, "--device", "h100"])
    out = capsys.readouterr().out
    assert "scorers: helpful (bfloat16) 2.5 GB: 2.5 GB a device, with sampling " in out
    assert "not counted: the scorers' models (harmless), which are not at hand" in out


def test_a_flag_of_the_dry_run():
    with pytest.raises(InputError, match="--device belongs to --dry_run"):
        train.main(["--config", str(ROOT / "configs/pod.yaml"), "--device", "h100"])


def test_named_devices():
    assert devices_named("h100").chips == 1 and devices_named("h100").interconnect == 0
    assert devices_named("h200:8").interconnect == pytest.approx(450e9)
    assert devices_named("v5p:4x4x4").chips == 64
    assert devices_named("v5e:4x8").chips == 32 and devices_named("v5p:28x20x16").chips == 8960


@pytest.mark.parametrize(
    "name, message",
    [
        ("h100:16", "'h100:16': a machine has 8 at most; use h100:8"),
        ("h100:2x2", "'h100:2x2': a machine has 8 at most; use h100:8"),
        ("v5e:4x4x4", "'v5e:4x4x4': there is no such slice; write v5e:AxB, each 1, 2 or"),
        (
            "v6e:4",
            "'v6e:4': there is no such slice; write v6e:AxB, each 1, 2 or a multiple of 4, 16x16 at most",
        ),
        ("v5e:3x4", "'v5e:3x4': there is no such slice"),
        ("v5e:16x32", "'v5e:16x32': there is no such slice"),
        ("v5p:4x4", "'v5p:4x4': there is no such slice; write v5p:AxBxC, .* 16x20x28 at most"),
    ],
)
def test_hardware_that_does_not_exist(name, message):
    with pytest.raises(InputError, match=f"--device {message}"):
        devices_named(name)
    if ":" in name and not name.startswith("h100"):
        with pytest.raises(InputError, match=f"--topology {message}"):
            slice_of(name)
