"""JAX's own options, of which a command needs some as JAX has them by itself."""

import jax

from cann_jax.files.errors import InputError

# The strict ones refuse operations of this package. The others change what is drawn with a seed, and
# processes of one run that differ in them would draw different numbers. None is among a run's settings.
_USUAL = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_threefry_partitionable": True,
}
_WIDE = "jax_enable_x64"


def check_options(wide: bool = False) -> None:
    """Check that JAX computes, and draws, as a command means to; ``wide``: in 64 bits too, as tables allow.

    Raises:
        InputError: A variable of the environment has it otherwise.
    """
    for name, usual in (_USUAL if wide else _USUAL | {_WIDE: False}).items():
        found = jax.config.values[name]
        if found != usual:
            raise InputError(
                f"{name.upper()}: JAX is set to {found}, by which this command cannot compute what it says; "
                f"unset the variable, or set it to {usual}"
            )
