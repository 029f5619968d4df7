"""The devices of a TPU slice that is not at hand, as libtpu describes them."""

import importlib.util
import os
from typing import Any

from cann_jax_tools.chips import Slice

from cann_jax.files.errors import InputError

# Without these, libtpu asks the cloud's metadata server; the answers do not matter for compiling.
_ANSWERS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def devices_of(where: Slice) -> list[Any]:
    """Return the devices of a slice, to compile for and not to run on.

    Raises:
        InputError: libtpu is not installed, or does not know the slice.
    """
    for name, value in {**_ANSWERS, "TPU_ACCELERATOR_TYPE": where.cloud_name}.items():
        os.environ.setdefault(name, value)
    # Not a dependency: it weighs as much as JAX, and a TPU machine has its own.
    found = importlib.util.find_spec("libtpu")
    if found is None:
        raise InputError(
            "compile_check needs libtpu, the TPU compiler; run: pip install --target DIR --no-deps libtpu, "
            "and set PYTHONPATH=DIR"
        )
    os.environ["TPU_LIBRARY_PATH"] = importlib.import_module("libtpu").get_library_path()
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=where.name).devices)
    except Exception as error:  # the runtime's own type, which is not public
        reason = str(error).splitlines()[0]
        raise InputError(f"--topology {where.name}: libtpu does not know this slice ({reason})") from None
