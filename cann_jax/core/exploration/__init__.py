"""Exploration of a solved problem: curves, uncertainty over prompts, finite-sample bias, conflicts."""
