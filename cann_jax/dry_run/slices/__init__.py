"""Programs compiled for TPU slices, and what they need there."""
