"""The table of names, and what is refused before anything is computed."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from cann_jax.command_line.run_options import parse_run
from cann_jax.config.mesh import MeshConfig
from cann_jax.config.schema import from_mapping
from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.models.files.load import abstract_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.runtime import sharding
from cann_jax.runtime.mesh import AXES, make_mesh, mesh_shape
from cann_jax.runtime.sharding import parameter_specs, partition
from tests.builders.runs import write_config

EVERY_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIRST_SHARED = PartitionSpec(None, "fsdp", "tensor")
LAST_SHARED = PartitionSpec(None, "tensor", "fsdp")


@pytest.mark.parametrize(
    "config, devices, shape",
    [
        (MeshConfig(), 1, (1, 1, 1)),
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(2, -1, 2), 8, (2, 2, 2)),
        (MeshConfig(2, 4, 1), 8, (2, 4, 1)),
    ],
)
def test_minus_one_takes_what_is_left(config, devices, shape):
    assert mesh_shape(config, devices) == shape


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX reads of a TPU's device to lay out a mesh."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


def test_axes_that_are_no_sides_of_the_slice():
    """16 × 4 on 8 × 8 chips: jax.make_mesh raises NotImplementedError."""
    chips = [Chip(8 * y + x, (x, y, 0)) for y in range(8) for x in range(8)]
    mesh = make_mesh(MeshConfig(16, 4, 1), chips)
    assert mesh.devices.shape == (16, 4, 1) and {chip.id for chip in mesh.devices.flat} == set(range(64))


@pytest.mark.parametrize("config, devices", [(MeshConfig(-1, 3, 1), 8), (MeshConfig(2, 2, 1), 8)])
def test_a_mesh_that_does_not_fit(config, devices):
    with pytest.raises(InputError, match="does not fit 8 devices; use sizes whose product is 8"):
        mesh_shape(config, devices)


@pytest.mark.parametrize(
    "mesh, message",
    [
        ({"data": -1, "fsdp": -1}, "more than one axis is -1"),
        ({"data": 0}, "mesh.data is 0; it must be an integer: 1 or more, or -1"),
    ],
)
def test_impossible_whatever_the_devices(mesh, message):
    with pytest.raises(InputError, match=message):
        from_mapping(MeshConfig, mesh, "mesh")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"sample": {"prompts_per_batch": 6}}, "sample.prompts_per_batch is 6 and does not divide over 4"),
        ({"sample": {"prompts_per_batch": 4, "slots": 6}}, "sample.slots is 6 and does not divide over 4"),
        ({"align": {"prompts_per_step": 8, "accumulation": 4}}, "align.accumulation is 2 and does not"),
    ],
)
def test_a_batch_that_does_not_divide(flags, message, tiny_folder, tmp_path):
    given = {"sample": {"prompts_per_batch": 4}, "align": {"prompts_per_step": 4}} | flags
    overrides = [
        text
        for room, values in given.items()
        for key, value in values.items()
        for text in (f"--{room}.{key}", str(value))
    ]
    config, _ = parse_run(["--config", write_config(tmp_path, tiny_folder), *overrides])
    with pytest.raises(InputError, match=message):
        sharding.check_batches(config.batches(), AbstractMesh((2, 2, 1), AXES))


def test_tensor_larger_than_the_kv_heads():
    sizes = SimpleNamespace(hidden=64, heads=4, kv_heads=2, intermediate=96)
    sharding.check_model(sizes, AbstractMesh((1, 4, 2), AXES))
    with pytest.raises(InputError, match="KV heads 2; use a divisor of 2 for mesh"):
        sharding.check_model(sizes, AbstractMesh((1, 2, 4), AXES))


def test_names_are_strict():
    assert partition(("batch", "any", "heads")) == PartitionSpec(("data", "fsdp"), None, ("tensor",))
    with pytest.raises(ValueError, match="no rule for the logical axis 'head'"):
        partition(("batch", "head"))
    with pytest.raises(ValueError, match="use one mesh axis twice"):
        partition(("heads", "intermediate"))


def test_every_parameter_is_covered(tiny_folder):
    """By the entry made for it: a kernel's two wide axes lie on different axes of the mesh."""
    config = open_model(str(tiny_folder)).config
    for tied in (True, False):
        shape = dataclasses.replace(config, tied=tied)
        decoder = abstract_decoder(shape, "float32", LoraConfig(targets=EVERY_LAYER))
        specs = parameter_specs(nnx.state(decoder, nnx.Param))
        found = {sharding.path_name(path): spec for path, spec in jax.tree_util.tree_leaves_with_path(specs)}
        kernels = [spec for path, spec in found.items() if path.endswith("kernel")]
        assert len(kernels) == 7
        assert all(spec in (FIRST_SHARED, LAST_SHARED) for spec in kernels)
        assert ("lm_head" in found) is not tied


def test_a_parameter_that_the_table_does_not_know():
    state = {"layers": {"attention": {"r_proj": {"kernel": jax.numpy.zeros((2, 4, 4))}}}}
    with pytest.raises(ValueError, match="no sharding for the parameter 'layers/attention/r_proj/kernel'"):
        parameter_specs(state)
