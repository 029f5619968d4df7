"""Models by their name on the Hub, out of its cache or, where there is no network, one line of error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cann_jax.files.errors import InputError
from cann_jax.models.files import hub
from cann_jax.models.files.model_files import open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tiny_folder, tmp_path) -> Path:
    """A Hub cache that holds the tiny model as ``owner/tiny``, branch main."""
    repository = tmp_path / "cache" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tiny_folder, repository / "snapshots" / COMMIT)
    return tmp_path / "cache"


def download(cache: Path, name: str, revision: str | None = None, **environment: str):
    """What ``hub.download`` says in a process of its own: the Hub's client reads its settings once."""
    code = (
        "from cann_jax.files.errors import InputError\n"
        "from cann_jax.models.files import hub\n"
        f"try: print(hub.download({name!r}, {revision!r}))\n"
        "except InputError as error: print('refused:', error)"
    )
    settings = {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        check=True,
        capture_output=True,
        text=True,
    )
    return ended.stdout.strip().splitlines()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_offline_from_the_cache(cache, tiny_files, revision):
    (folder,) = download(cache, "owner/tiny", revision, HF_HUB_OFFLINE="1")
    assert folder == str(cache / "models--owner--tiny" / "snapshots" / COMMIT)
    assert open_model(folder).config == tiny_files.config


@pytest.mark.parametrize(
    ("name", "revision", "environment"),
    [
        ("owner/other", None, {"HF_HUB_OFFLINE": "1"}),
        ("owner/tiny", "v2", {"HF_HUB_OFFLINE": "1"}),
        ("owner/other", None, {"HF_ENDPOINT": "http://127.0.0.1:9"}),  # nobody listens there
        ("owner/..", None, {"HF_HUB_OFFLINE": "1"}),
    ],
)
def test_what_cannot_be_had_is_one_line(cache, name, revision, environment):
    (line,) = download(cache, name, revision, **environment)
    assert line.startswith(
        f"refused: {name}{f' at revision {revision}' if revision else ''} is not a folder here"
    )
    assert line.endswith("or download the folder and give its path")


def test_a_path_that_exists_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_name("owner/name") and not hub.is_name("name") and not hub.is_name("a/b/c")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not hub.is_name("owner/name")


def test_revision_of_a_folder(tiny_folder):
    with pytest.raises(InputError, match=r"model\.revision 'main' applies to a name on the Hub"):
        open_model(str(tiny_folder), "main")
