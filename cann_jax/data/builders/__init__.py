"""Preference data sets as TFDS builders: prepared once to ArrayRecord, without TensorFlow."""
