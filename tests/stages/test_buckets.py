"""A run's folder in an object store: no empty folders, no renaming, nothing appended.

The store is fsspec's own in memory, made as strict as Google's; Orbax reaches buckets by TensorStore, which
this cannot stand in for.
"""

import json
import os

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from cann_jax import train
from cann_jax.files.errors import InputError
from cann_jax.models.export.folder import export_folder
from cann_jax.models.files.load import load_decoder
from cann_jax.models.files.model_files import open_model
from cann_jax.training.metrics import Metrics
from tests.builders import ROOT
from tests.builders.runs import write_config


class Bucket(MemoryFileSystem):
    protocol = ("gs", "gcs")
    store: dict = {}  # noqa: RUF012 - fsspec's own way of keeping it
    closed = False

    def __init__(self, finalize_on_close: bool = True, **settings):
        super().__init__(**settings)

    @classmethod
    def _strip_protocol(cls, path):
        if cls.closed:
            raise PermissionError("403: this machine may not read the bucket")
        return "/" + os.fspath(path).removeprefix("gs://").strip("/")

    def mkdir(self, path, create_parents=True, **settings):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def mv(self, *paths, **settings):
        raise NotImplementedError("objects cannot be renamed")

    def glob(self, path, **settings):
        return [found.strip("/") for found in super().glob(path, **settings)]

    def _open(self, path, mode="rb", **settings):
        assert "a" not in mode, "objects cannot be appended to"
        return super()._open(path, mode, **settings)


@pytest.fixture
def bucket(monkeypatch):
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    Bucket.store.clear()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.chdir(ROOT)
    yield epath.Path("gs://bucket")
    Bucket.closed = False


def test_stages_run_and_are_found_again(bucket, tiny_folder, tmp_path, capsys):
    command = ["--config", write_config(tmp_path, tiny_folder), "--run_dir", "gs://bucket/runs"]
    command += ["--stages", "sample,score,dual"]
    train.main(command)
    folder = bucket / "runs/tiny"
    files = ["config.json", "report.html", "report.md", "versions.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*files, "dual", "sample", "score"])
    assert json.loads((folder / "dual/dual.json").read_text())["converged"]
    capsys.readouterr()
    train.main(command)
    assert capsys.readouterr().out.count("done already") == 3
    train.main([*command, "--dual.beta", "2"])
    assert "dual: computed again" in capsys.readouterr().out
    assert not list((tmp_path / "runs").glob("*")) and not (ROOT / "gs:").exists()


def test_numbers_of_steps_go_with_the_checkpoints(bucket):
    path = bucket / "metrics.jsonl"

    def steps() -> list[int]:
        return [json.loads(line)["step"] for line in path.read_text().splitlines()]

    with Metrics(bucket, 0, "align", every=2) as metrics:
        for step in range(5):
            metrics.write(step, {"loss": 1.0})
        assert steps() == [0, 1, 2, 3]
    assert steps() == [0, 1, 2, 3, 4]
    with Metrics(bucket, 2, "align", every=2) as metrics:
        metrics.write(2, {"loss": 1.0})
    assert steps() == [0, 1, 2]


def test_a_model_leaves_whole(bucket, tiny_folder, tmp_path):
    files = open_model(str(tiny_folder))
    for folder in (bucket / "model", epath.Path(tmp_path) / "model"):
        export_folder(load_decoder(files, "float32"), files, folder)
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert sorted(path.name for path in (bucket / "model").iterdir()) == names and len(names) > 4
    for name in names:
        assert (bucket / "model" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_no_permission_is_one_line(bucket, tiny_folder, tmp_path):
    Bucket.closed = True
    with pytest.raises(InputError, match=r"gs://bucket/runs/tiny.* \(.*403.*\); (make its|check its)"):
        train.main(["--config", write_config(tmp_path, tiny_folder), "--run_dir", "gs://bucket/runs"])
