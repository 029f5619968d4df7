"""``python -m cann_jax.compile_check --config FILE.yaml --topology v5e:16x16``: compile for a TPU slice."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence

# Before JAX starts: nothing runs on a device here, and a TPU's own runtime would claim it.
os.environ["JAX_PLATFORMS"] = "cpu"

from cann_jax.command_line.errors import run_command
from cann_jax.command_line.run_options import parse_compile_check
from cann_jax.files.shipped import architecture_file


def main(argv: Sequence[str]) -> None:
    """Compile, and print what each program needs of a device.

    Raises:
        InputError: One line that says what is wrong and how to fix it.
    """
    config, flags = parse_compile_check(argv)
    # Imported here: JAX and the models take seconds, which --help and a mistyped key need not wait for.
    from cann_jax_tools.chips import slice_of
    from cann_jax_tools.compiler import dumped
    from cann_jax_tools.figures import chosen_programs, figures_of_programs
    from cann_jax_tools.table import figures_table, sentence
    from cann_jax_tools.topology import devices_of

    from cann_jax.files.atomic import write_bytes_atomic
    from cann_jax.files.console import console
    from cann_jax.models.config import DecoderConfig
    from cann_jax.models.files.folder_files import read_json
    from cann_jax.runtime.mesh import make_mesh, on_mesh
    from cann_jax.runtime.options import check_options
    from cann_jax.runtime.sharding import check_batches, check_model

    check_options()
    chosen = chosen_programs(flags.programs, flags.machine_code)
    where = slice_of(flags.topology)
    path = architecture_file(flags.model_config or f"{config.model.path}/config.json")
    shape = DecoderConfig.from_hf(read_json(path), str(path))
    with (
        contextlib.nullcontext() if flags.machine_code else dumped() as dumps,
        on_mesh(make_mesh(config.mesh, devices_of(where))) as mesh,
    ):
        check_batches(config.batches(), mesh)
        check_model(shape, mesh)
        figures = figures_of_programs(config, shape, where, chosen, dumps)
        for line in (f"{where.name} ({where.cloud_name}), mesh {dict(mesh.shape)}", *map(sentence, figures)):
            print(line)
        console().print(figures_table(figures, where))
        if flags.json is not None:
            write_bytes_atomic(flags.json, (json.dumps(figures, indent=1) + "\n").encode())
    if not flags.machine_code:
        sys.stdout.flush()
        os._exit(0)  # the compiler is still making machine code


if __name__ == "__main__":
    sys.exit(run_command(main))
