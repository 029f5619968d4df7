"""``python -m cann_jax.export`` on a finished run, and ``--push`` to a local server in the Hub's place."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cann_jax import export, train
from cann_jax.files.errors import InputError
from cann_jax.reporting.finished_run import finished_run
from tests.builders import ROOT
from tests.builders.hub import local_hub
from tests.builders.processes import environment


def left(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(copy) -> Path:
    """A copy of the finished run, whose model has been exported as an adapter."""
    return copy / "runs/tiny"


def test_one_more_format_and_nothing_else_anew(run, copy, capsys):
    before = {name: data for name, data in left(run).items() if not name.startswith("export/")}
    export.main([str(run), "--format", "merged"])
    said = capsys.readouterr().out
    assert f"export: {run / 'export/merged'}" in said and "evaluate" not in said
    changed = {name for name, data in before.items() if (run / name).read_bytes() != data}
    assert changed <= {"config.json", "versions.json"}
    export.main([str(run), "--format", "merged"])
    assert "export: done already" in capsys.readouterr().out
    assert (run / "export/adapter/README.md").exists() and (run / "export/merged/config.json").exists()


def test_a_format_stays_until_its_model_changes(run, again):
    """The same command once deleted a format that the configuration does not name."""
    export.main([str(run), "--format", "merged"])
    before = left(run / "export")
    for flags in (("--dry_run",), ()):
        said = again(*flags)
        assert "export: merged is there of this model, and stays" in said and "export: done already" in said
    assert left(run / "export") == before
    assert "and stays" not in again("--evaluate.policy", "reference", "--dry_run")  # it has no export
    again("--evaluate.bootstrap", "150")
    assert not (run / "export/merged").exists() and (run / "export/adapter/README.md").exists()


def test_a_format_whose_folder_was_deleted_is_gone(run, again):
    export.main([str(run), "--format", "merged"])
    shutil.rmtree(run / "export/merged")
    assert "stays" not in again()
    assert not (run / "export/merged").exists() and (run / "export/adapter/README.md").exists()


def test_a_card_is_not_stale(run, copy):
    train.main(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs"), "--stages", "evaluate",
                "--evaluate.bootstrap", "150"])  # fmt: skip
    with pytest.raises(InputError, match=r"stage 'export' is stale"):
        export.main([str(run)])


def test_pushed_by_the_command(run):
    with local_hub() as hub:
        command = [sys.executable, "-m", "cann_jax.export", str(run), "--push", "owner/name"]
        given = {**environment(), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}
        ended = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"pushed: {hub.url}/owner/name" in ended.stdout and "hf_secret" not in ended.stdout + ended.stderr
    assert hub.files == left(run / "export/adapter") and len(hub.files) == 4
    (made,) = hub.created
    assert made["name"] == "name" and made.get("visibility", made.get("private")) in ("private", True)
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.fixture
def pushed(run, monkeypatch, tmp_path):
    """Push to a server; returns what was said of the failure. The Hub's client reads its settings once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)

    def pushed(url: str, token: str | None, *flags: str) -> str:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        before = left(run / "export")
        with pytest.raises(InputError) as error:
            export.main([str(run), "--push", *(flags or ("owner/name",))])
        assert left(run / "export") == before
        assert "\n" not in str(error.value) and error.value.exit_status == 2
        return str(error.value)

    return pushed


def test_what_is_not_pushed_is_one_line(pushed, run):
    with local_hub(403) as refusing:
        said = pushed(refusing.url, "hf_read_only")
        assert f"owner/name was not pushed to {refusing.url} (" in said and "403" in said
        assert said.endswith(f"{run / 'export/adapter'} stays, and the same command tries again")
        assert "hf_read_only" not in said and not refusing.files
    with local_hub() as hub:
        assert "oken" in pushed(hub.url, None) and not hub.tokens  # nothing is sent without one
    assert "was not pushed to http://127.0.0.1:9" in pushed("http://127.0.0.1:9", "hf_x")  # nobody listens
    assert "--push 'name' is no repository; write owner/name" in pushed(hub.url, "hf_x", "name")


def test_runs_that_have_nothing_to_export(tmp_path, run):
    with pytest.raises(InputError, match="is not a run's folder"):
        export.main([str(tmp_path / "nothing")])
    with pytest.raises(InputError, match="--public belongs to --push"):
        export.main([str(run), "--public"])
    (run / "evaluate/manifest.json").unlink()
    before = left(run)
    with pytest.raises(InputError, match=r"reads stage 'evaluate', which has not ended"):
        export.main([str(run), "--format", "merged"])
    assert left(run) == before


def test_a_format_that_cannot_be_leaves_the_run_as_it_was(run, monkeypatch):
    before = left(run)

    def refuse(_):
        raise InputError("no such tokenizer")

    monkeypatch.setattr("cann_jax.run.exports.check_gguf", refuse)
    with pytest.raises(InputError, match="no such tokenizer"):
        export.main([str(run), "--format", "gguf"])
    assert left(run) == before


def test_killed_before_the_format_was_begun(run, monkeypatch):
    """The configuration has one format more than the stage, and the run is still one that can be used."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cann_jax.run.exports.run_stages", die)
        with pytest.raises(KeyboardInterrupt):
            export.main([str(run), "--format", "merged"])
    assert finished_run(str(run)).config.export == ("adapter", "merged")
    export.main([str(run)])
    assert (run / "export/adapter/README.md").exists() and (run / "export/merged/config.json").exists()
    (run / "export/adapter/README.md").write_text("another")
    with pytest.raises(InputError, match=r"'export' is stale: outputs.adapter/README.md was altered"):
        finished_run(str(run))
