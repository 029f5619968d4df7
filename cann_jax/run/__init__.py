"""A run: its folder, its manifests, its pipeline, and what several stages share."""
