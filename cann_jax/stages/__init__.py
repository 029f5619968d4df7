"""The stages of a run, one file each; ``cann_jax.run.pipeline`` has the table of them."""
