"""Files, hashes, progress and errors: what every other room stands on."""
