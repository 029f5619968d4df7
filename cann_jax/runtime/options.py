"""JAX's own options, of which a command needs some as JAX has them by itself."""

from collections.abc import Collection

import jax

from cann_jax.files.errors import InputError

# The strict promotions refuse operations of this package, and models are not computed in 64 bits. The others
# change what is drawn with a seed; processes of one run that differ in them would draw different numbers.
_USUAL = {
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_threefry_partitionable": True,
}


def check_options(may_differ: Collection[str] = ()) -> None:
    """Check that JAX's options, but for those that may differ, are as JAX has them by itself.

    Raises:
        InputError: One is not, as by a variable of the environment.
    """
    for name in sorted(_USUAL.keys() - set(may_differ)):
        found, usual = getattr(jax.config, name), _USUAL[name]
        if found != usual:
            raise InputError(
                f"{name.upper()}: JAX is set to {found}, which refuses or changes what this command "
                f"computes; unset the variable, or set it to {usual}"
            )
