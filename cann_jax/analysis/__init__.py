"""Score tables in, the dual's answer out: the library behind ``cann_jax.dual``."""
