"""``python -m cann_jax.dual``: a score table in, multipliers, certificate, uncertainty and trade-off out."""
