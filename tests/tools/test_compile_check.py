"""The compile check: chips, loops in HLO text, operations of a traced step, and mistakes."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from cann_jax_tools.bytes_moved import moved
from cann_jax_tools.chips import slice_of
from cann_jax_tools.figures import chosen_programs
from cann_jax_tools.flops import model_flops, program_flops, step_flops
from cann_jax_tools.hlo import parse, trip_count
from cann_jax_tools.roofline import Times, utilisation
from cann_jax_tools.traffic import traffic

from cann_jax.command_line.run_options import parse_compile_check, parse_run
from cann_jax.dry_run.programs import trace_training
from cann_jax.files.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.run.training import alignment
from tests.builders import ROOT


def test_slices():
    small, pod, cube = (slice_of(name) for name in ("v5e:4x4", "v5e:16x16", "v5p:4x4x4"))
    assert (small.chips, small.cloud_name) == (16, "v5litepod-16")
    assert (cube.chips, cube.cloud_name) == (64, "v5p-128")
    # An axis closes to a ring from 16 chips on (v5e), from 4 on (v5p): twice the ports.
    assert pod.interconnect == pytest.approx(200e9) and small.interconnect == pytest.approx(100e9)
    assert cube.interconnect == pytest.approx(600e9)
    for wrong in ("v9:4x4", "v5e", "v5e:4xx"):
        with pytest.raises(InputError, match="--topology"):
            slice_of(wrong)


def test_a_loop_counts_as_often_as_it_runs():
    """On this machine's compiler: a carried square, 10 times, and an argument read slice by slice."""

    def loop(x, parts):
        return jax.lax.scan(lambda x, part: (jnp.tanh(x @ x) + part, None), x, parts)[0]

    shapes = (jnp.zeros((64, 64)), jnp.zeros((10, 64, 64)))
    text = jax.jit(loop).lower(*shapes).compile().as_text()
    computations, _ = parse(text)
    loops = [i for each in computations.values() for i in each.instructions.values() if i.kind == "while"]
    assert [trip_count(each, computations) for each in loops] == [10]
    once = 64 * 64 * 4
    # A product reads two squares and writes one; tanh and the sum read three and write at least one.
    assert 10 * 5 * once <= traffic(text).memory <= 10 * 12 * once


def test_operations_of_a_loop_that_may_end_early():
    """Seven squares of 8 × 8, if nothing stops it before."""

    def going(state):
        return (state[0] < 7) & jnp.all(state[1] < 1e9)

    def loop(x):
        return jax.lax.while_loop(going, lambda state: (state[0] + 1, state[1] @ state[1]), (0, x))

    assert program_flops(jax.jit(loop).trace(jnp.ones((8, 8))).jaxpr.jaxpr) == 7 * 2 * 8**3


COLLECTIVES = """
HloModule m

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %ar = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %ar)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %end = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (a: f32[2,4]) -> f32[8,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %ag = f32[8,4]{1,0} all-gather(%a), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,4]{1,0}) tuple(%zero, %ag)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_by_kind_and_size():
    """Of 128 bytes an all-gather among 4 receives 3/4, an all-reduce twice that, six times."""
    moved = traffic(COLLECTIVES)
    assert moved.count == {"all-gather": 1, "all-reduce": 6}
    assert moved.received == {"all-gather": 96, "all-reduce": 6 * 192}


# Of the TPU compiler's kinds: S(1) is a memory beside HBM. f32[8,128] is 4,096 bytes, f32[1,128] 512.
MOVES = """
HloModule m

%sliced (p0: f32[8,128]) -> f32[1,128] {
  %p0 = f32[8,128]{1,0} parameter(0)
  ROOT %s = f32[1,128]{1,0:T(8,128)S(1)} slice(%p0), slice={[0:1], [0:128]}
}

%narrowed (q0: f32[8,128]) -> f32[1024] {
  %q0 = f32[8,128]{1,0} parameter(0)
  ROOT %b = f32[1024]{0} bitcast(%q0)
}

%one_row (r0: f32[8,128], r1: s32[], r2: f32[1,128]) -> f32[1,128] {
  %r0 = f32[8,128]{1,0} parameter(0)
  %r1 = s32[] parameter(1)
  %r2 = f32[1,128]{1,0} parameter(2)
  %row = f32[1,128]{1,0} dynamic-slice(%r0, %r1, %r1), dynamic_slice_sizes={1,128}
  ROOT %sum = f32[1,128]{1,0} add(%row, %r2)
}

%written_in_place (u0: f32[8,128], u1: f32[1,128], u2: s32[]) -> f32[8,128] {
  %u0 = f32[8,128]{1,0} parameter(0)
  %u1 = f32[1,128]{1,0} parameter(1)
  %u2 = s32[] parameter(2)
  ROOT %dus = f32[8,128]{1,0} dynamic-update-slice(%u0, %u1, %u2, %u2)
}

%beside (g0: f32[1,128], g1: f32[8,128], g2: f32[8,128]) -> (f32[1024], f32[1,128], f32[8,128]) {
  %g0 = f32[1,128]{1,0} parameter(0)
  %g1 = f32[8,128]{1,0} parameter(1)
  %g2 = f32[8,128]{1,0} parameter(2)
  %inner = f32[1024]{0} fusion(%g1), kind=kLoop, calls=%narrowed
  %twice = f32[1024]{0} add(%inner, %inner)
  %ag = f32[8,128]{1,0} all-gather(%g0), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %t = (f32[1024]{0}, f32[1,128]{1,0}, f32[8,128]{1,0}) tuple(%twice, %g0, %ag)
}

ENTRY %main (a: f32[8,128], i: s32[], r: f32[1,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %r = f32[1,128]{1,0} parameter(2)
  %cut = ((f32[8,128]{1,0}), f32[1,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) async-start(%a), calls=%sliced
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %row = f32[1,128]{1,0} fusion(%a, %i, %r), kind=kLoop, calls=%one_row
  %in_place = f32[8,128]{1,0} fusion(%a, %r, %i), kind=kLoop, calls=%written_in_place
  %alone = f32[8,128]{1,0} dynamic-update-slice(%a, %r, %i, %i)
  %overlap = (f32[1024], f32[1,128], f32[8,128]) fusion(%r, %a, %a), kind=kOutput, calls=%beside
  %space = f32[8,128]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %kept = f32[8,128]{1,0} add(%a, %copy-done)
}
"""
ROW, SCALAR = 512, 4


def test_bytes_are_those_that_move():
    """Not whole operands of which a slice is read, nor what is passed through or repeated in a shape."""
    computations, entry = parse(MOVES)
    main = computations[entry]
    found = {name: moved(each, main, computations) for name, each in main.instructions.items()}
    assert {name: size for name, size in found.items() if size} == {
        "cut": ROW,  # read; written elsewhere
        "copy-start": 8 * ROW,
        "row": 3 * ROW + SCALAR,  # two rows read, the sum of both written
        "in_place": 2 * ROW + SCALAR,
        "alone": 2 * ROW + SCALAR,
        "overlap": 16 * ROW,  # one operand read through the inner fusion, its double written
        "kept": 16 * ROW,
    }
    # And the gathered array, with the row that this device puts in.
    assert traffic(MOVES).memory == sum(found.values()) + 9 * ROW


@pytest.mark.parametrize("lora", [[], ["--align.lora", "null", "--export", "[merged]"]])
def test_operations_of_a_step_within_5_percent_of_the_formula(lora):
    config, _ = parse_run(["--config", str(ROOT / "configs/pod.yaml"), "--model.attention", "xla", *lora])
    sizes = json.loads((ROOT / "configs/models/llama-7b.json").read_text())
    shape = DecoderConfig.from_hf(sizes, "llama-7b")
    traced = trace_training(config.model, alignment(config), shape, 512, 1000, config.sample.max_new_tokens)
    counted = program_flops(traced["training step"].jaxpr.jaxpr)
    assert counted == pytest.approx(step_flops(config, shape, 512), rel=0.05)
    # 4ND or 6ND, N and D counted independently: 6.7 billion parameters, 64 sequences of 1,536 tokens.
    wanted = model_flops(config, shape, 512)
    assert wanted == pytest.approx((6 if lora else 4) * 6.74e9 * 64 * 1536, rel=0.1)
    assert utilisation(wanted, Times(1.0, 0.5, 0.2).longest, slice_of("v5e:4x4")) == pytest.approx(
        wanted / 16 / 197e12
    )


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--programs", "training"], "there is no 'training'; use training step, sampling, scoring"),
        (["--machine_code", "no"], "--machine_code no is for one program"),
        (["--stages", "sample"], "stages is not a key"),
        (["--topolgy", "v5e:4x4"], "--topolgy is not an option; did you mean --topology?"),
    ],
)
def test_mistakes(flags, problem):
    with pytest.raises(InputError, match=problem):
        _, parsed = parse_compile_check(
            ["--config", str(ROOT / "configs/pod.yaml"), "--topology", "v5e:4x4", *flags]
        )
        chosen_programs(parsed.programs, parsed.machine_code)


def test_without_libtpu_one_line_says_how_to_get_it(tmp_path):
    command = [sys.executable, "-m", "cann_jax.compile_check", "--config", "configs/pod.yaml"]
    command += ["--model_config", "configs/models/llama-7b.json", "--topology", "v5e:4x4"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: compile_check needs libtpu") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())  # the compiler's dumps
