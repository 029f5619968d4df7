"""Loading straight into shards, on eight devices of a CPU in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cann_jax.files.errors import InputError
from cann_jax.models.files.load import load_decoder
from tests.builders import ROOT
from tests.builders.families import save_family
from tests.models.files.test_pickled import as_bin


def load_sharded(folder: Path) -> dict:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.models.files.sharded_load", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_each_device_reads_its_own_part_once(tiny_folder, tiny_files):
    """Together the eight hold a matrix once, so no more of it is read, one tensor after the other."""
    found = load_sharded(tiny_folder)
    assert found["devices"] == 8
    for name, reader in tiny_files.readers.items():
        size = int(np.prod(reader.shape)) * 4
        reads = found["reads"][name]
        if "_proj" in name:
            assert reads == [size // 8] * 8, name
        elif "embed" in name:
            assert reads == [size // 4] * 8, name
        else:
            assert reads == [size], name


def test_fused_and_pickled_tensors(tmp_path):
    """Phi-3 keeps q, k and v in one tensor; a part of one array is a part of its rows. Pickles of it too."""
    folder = as_bin(save_family(tmp_path / "phi3", "phi3"), tmp_path / "pickled")
    reads = load_sharded(folder)["reads"]
    assert len(reads["model.layers.0.self_attn.qkv_proj.weight"]) == 3 * 8


def test_nothing_is_read_of_weights_that_do_not_fit(tiny_files):
    files = dataclasses.replace(tiny_files, readers={**tiny_files.readers})
    files.readers.pop("model.norm.weight")
    mesh = jax.make_mesh((1,), ("fsdp",))
    with pytest.raises(InputError, match=r"1 missing \(model\.norm\.weight\)"):
        load_decoder(files, "float32", shardings=lambda path: NamedSharding(mesh, PartitionSpec()))
