"""What a run would need on a TPU slice, from ahead-of-time compilation on a machine that has none."""
