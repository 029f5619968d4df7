"""Files, hashes, progress, console output and errors, which all other packages use."""
