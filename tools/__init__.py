"""What ``cann_jax.compile_check`` reads of XLA's programs: bytes, FLOPs and collectives for TPU slices."""
