"""Trackers of experiments: one file each, all of which are told the same."""
