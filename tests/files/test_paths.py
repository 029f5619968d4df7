"""Paths that cannot be used are one line, whatever the file system or a bucket's client raises."""

import pytest
from etils import epath

from cann_jax.files.errors import InputError, Preempted
from cann_jax.files.paths import is_remote, reached
from cann_jax.models.files.folder_files import reading


@pytest.mark.parametrize(
    "path, said",
    [
        (
            "a" * 3000,
            r"model\.path: a{300} cannot be used \(File name too long\); check its name, .*it$",
        ),
        ("http://x/y", r"model\.path: http://x/y cannot be used \(KeyError: .*client is installed"),
    ],
)
def test_paths_that_cannot_be_used(path, said):
    with pytest.raises(InputError, match=said) as error, reached(path, "model.path"):
        epath.Path(path).read_bytes()
    assert "\n" not in str(error.value)


def test_bugs_and_errors_of_our_own_pass():
    for error in (InputError("as it is"), KeyError("a bug")):
        with pytest.raises(type(error)) as raised, reached("here", "run_dir"):
            raise error
        assert raised.value is error
    assert is_remote("gs://a/b") and not is_remote("a/b")


@pytest.mark.parametrize("wrapped", [reached("gs://a/b", "run_dir"), reading("a file", "is bad", "copy it")])
def test_a_preemption_passes_whatever_wraps_errors(wrapped):
    with pytest.raises(Preempted), wrapped:
        raise Preempted("SIGTERM")
