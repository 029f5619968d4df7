"""Options of JAX by which a command would compute or draw otherwise than it says."""

import subprocess
import sys

import jax
import pytest

from cann_jax.files.errors import InputError
from cann_jax.runtime.options import check_options
from tests.builders import ROOT
from tests.builders.processes import environment

COMMANDS = {
    "train": ["--config", "configs/quickstart.yaml", "--dry_run"],
    "dual": ["--scores", "there-is-none.parquet"],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_enable_x64", True),
    ],
)
def test_an_option_that_is_not_the_usual_one_is_named(name, value):
    usual = jax.config.values[name]
    jax.config.update(name, value)
    try:
        with pytest.raises(InputError, match=f"^{name.upper()}: JAX is set to {value}"):
            check_options()
    finally:
        jax.config.update(name, usual)
    check_options()


def test_score_tables_may_be_solved_in_64_bits():
    with jax.enable_x64(True):
        check_options(wide=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_so_in_one_line(command):
    run = [sys.executable, "-m", f"cann_jax.{command}", *COMMANDS[command]]
    given = environment(JAX_DEFAULT_PRNG_IMPL="rbg")
    done = subprocess.run(run, cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: JAX_DEFAULT_PRNG_IMPL: JAX is set to rbg")
