"""Programs compiled are counted."""

import jax
import jax.numpy as jnp

from cann_jax.runtime import compilation
from cann_jax.runtime.compilation import compiled, keep_compilations


def test_a_user_without_a_home(monkeypatch, capsys):
    """As in a container that runs under a number of which no name is known."""

    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("cann_jax.runtime.compilation.Path.home", home)
    assert compilation._cache_folder() is None
    assert "set HOME" in capsys.readouterr().out


def test_each_program_is_counted_once():
    keep_compilations()
    keep_compilations()  # a second call must not count twice
    numbers = jnp.arange(7.0)
    double = jax.jit(lambda x: x * 2 + 1)
    before = compiled()
    double(numbers)
    after = compiled()
    assert after[0] == before[0] + 1 and after[1] > before[1]
    double(numbers)
    assert compiled() == after
