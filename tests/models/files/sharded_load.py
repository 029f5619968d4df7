"""A program of its own on eight devices of a CPU: load a folder into shards, and say what was read."""

import dataclasses
import json
import sys

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cann_jax.config.training import LoraConfig
from cann_jax.models.files.folder import Reader
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model

SPECS = {
    "embedding": (None, "fsdp"),
    "lm_head": (None, "fsdp"),
    **{name: (None, "fsdp", "tensor") for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")},
    **{name: (None, "tensor", "fsdp") for name in ("o_proj", "down_proj")},
}


def main(folder: str) -> None:
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def shardings(path: tuple[str, ...]) -> NamedSharding:
        found = next((SPECS[part] for part in path if part in SPECS and "lora" not in path), ())
        return NamedSharding(mesh, PartitionSpec(*found))

    files = open_model(folder)
    sizes: dict[str, list[int]] = {}

    def counted(name, reader):
        def read(index=()):
            tensor = reader(index)
            sizes.setdefault(name, []).append(tensor.nbytes)
            return tensor

        return Reader(reader.shape, read)

    readers = {name: counted(name, reader) for name, reader in files.readers.items()}
    counting = dataclasses.replace(files, readers=readers)
    sharded = load_decoder(counting, "float32", LoraConfig(), shardings=shardings)
    whole = load_decoder(files, "float32", LoraConfig())
    for (path, ours), (_, expected) in zip(
        *(nnx.to_flat_state(nnx.state(decoder)) for decoder in (sharded, whole)), strict=True
    ):
        assert ours[...].sharding == shardings(path), path
        np.testing.assert_array_equal(np.asarray(ours[...]), np.asarray(expected[...]), err_msg=str(path))
    print(json.dumps({"reads": sizes, "devices": len(jax.devices())}))


if __name__ == "__main__":
    main(sys.argv[1])
