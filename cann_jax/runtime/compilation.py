"""Compiled programs survive in the user's cache folder, so that only the first start ever compiles them."""

import os
from pathlib import Path


def keep_compilations(least_seconds: float = 0.5) -> None:
    """Turn on JAX's persistent compilation cache, unless the user has set a folder for it.

    Args:
        least_seconds: Programs that compile faster are not kept.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "cann_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
