"""Names that would stand for two things at once, and texts that no file can hold."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from cann_jax.command_line.run_options import parse_run
from cann_jax.config import scorers
from cann_jax.config.scorers import ToPrealign, registered_kinds
from cann_jax.files.errors import InputError
from cann_jax.scorers.judge import read_template
from tests.builders.runs import write_config


def test_models_of_close_betas_have_folders_of_their_own():
    betas = (0.1, 0.1234567, 0.12345678, 1.0, 100.0, 1e-7)
    names = [ToPrealign("safer", beta).name for beta in betas]
    assert names[0] == "safer-beta0.1" and names[3] == "safer-beta1" and len(set(names)) == len(betas)


@pytest.mark.parametrize("kinds, refused", [({"own": "a:B"}, False), ({"judge": "a:B"}, True)])
def test_a_kind_of_another_package_replaces_none(monkeypatch, kinds, refused):
    points = [
        importlib.metadata.EntryPoint(name, value, scorers.ENTRY_POINTS) for name, value in kinds.items()
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points * 2)
    registered_kinds.cache_clear()
    try:
        if refused:
            with pytest.raises(
                InputError, match=r"'judge' is declared by cann_jax\..* and by a:B; uninstall"
            ):
                registered_kinds()
        else:
            assert registered_kinds() == scorers.KINDS | kinds
    finally:
        registered_kinds.cache_clear()


@pytest.mark.parametrize("text", ["prompts: {date: 2025-02-30}", "prompts: {date: !!int x}", "[" * 1_500])
def test_texts_that_no_value_can_be_read_from(tmp_path, text):
    """PyYAML raises other errors than its own for them."""
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError, match=r"own\.yaml: is not valid YAML \("):
        parse_run(["--config", str(tmp_path / "own.yaml")])


def test_a_path_that_holds_a_zero(tiny_folder, tmp_path):
    config = Path(write_config(tmp_path, tiny_folder))
    config.write_text(config.read_text().replace("name: tiny", 'name: "ti\\0ny"'))
    with pytest.raises(InputError, match="name holds half a surrogate pair or a byte that is zero"):
        parse_run(["--config", str(config)])


@pytest.mark.parametrize("key", ["prompts.system", "model.path"])
def test_texts_that_utf8_cannot_hold(tiny_folder, tmp_path, key):
    """What a shell passes for a byte that is not UTF-8."""
    with pytest.raises(
        InputError, match=f"{key} holds half a surrogate pair or a byte that is zero or not UTF-8"
    ):
        parse_run(["--config", write_config(tmp_path, tiny_folder), f"--{key}", "a\udcff"])


OUTSIDE = ("..", "../x", "a/../../x", "/x", "a//b", "gs://b/x", "a/ .. /b", "a\\..\\b", "a\n", "", ".", "a/")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_runs_name_does_not_leave_its_folder(tiny_folder, tmp_path, name):
    config = Path(write_config(tmp_path, tiny_folder))
    config.write_text(config.read_text().replace("name: tiny", f"name: {json.dumps(name)}"))
    with pytest.raises(InputError, match=r"name is .*; it must be text: a relative path without"):
        parse_run(["--config", str(config)])


def test_a_judges_template_by_name_is_one_that_is_shipped():
    assert read_template("helpful_v1", "key").question
    for name in ("../templates/helpful_v1", "/etc/passwd", ""):
        with pytest.raises(InputError, match=r"key\.template: no template .*there are answers_v1, guard_v1"):
            read_template(name, "key")
