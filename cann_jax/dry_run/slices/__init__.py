"""Compile a run's programs for TPU slices, and count what they need there."""
