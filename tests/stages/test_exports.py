"""What leaves a run: adapter, merged, GGUF, or fully fine-tuned; others open it to the same numbers."""

import json
import os
import re
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from cann_jax.command_line.run_options import parse_run
from cann_jax.data.templates import bare_ids
from cann_jax.files.errors import InputError
from cann_jax.run.card import card
from cann_jax.run.exports import write_model
from cann_jax.run.run import Run
from cann_jax.run.training import trained_decoder
from tests.builders.forward import folder_logits, random_ids, torch_logits

IDS = random_ids((2, 9))


def test_all_formats_are_one_model(again, copy, tiny_folder):
    said = again("--export", "[adapter, merged, gguf]")
    assert "evaluate: done already" in said and "export: settings.export: " in said
    folder = copy / "runs/tiny/export"
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), folder / "adapter"
    )
    assert theirs.peft_config["default"].base_model_name_or_path == str(tiny_folder)
    with torch.no_grad():
        adapted = theirs(torch.tensor(IDS)).logits.numpy()
    assert np.abs(adapted - torch_logits(tiny_folder, IDS)).max() > 1e-4
    np.testing.assert_allclose(adapted, torch_logits(folder / "merged", IDS), atol=1e-5)
    np.testing.assert_allclose(adapted, folder_logits(folder / "gguf/model.gguf", IDS), atol=1e-5)
    mask = os.umask(0)
    os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert {"model.gguf", "adapter_model.safetensors", "model-00001.safetensors", "README.md"} < {*modes}
    assert {*modes.values()} == {0o666 & ~mask}
    said = again("--model.adapter", str(folder / "adapter"), "--stages", "sample", "--export", "[]")
    assert "sample: inputs.model:" in said


def test_every_format_has_the_scale(copy, tiny_folder, tmp_path):
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    decoder, scale = trained_decoder(run)
    assert scale == 1  # nothing was calibrated
    for form in ("adapter", "merged", "gguf"):
        write_model(run, form, decoder, 3.0, tmp_path / form)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")(torch.tensor(IDS)).logits.numpy()
    write_model(run, "merged", decoder, 1.0, tmp_path / "unscaled")
    assert np.abs(adapted - torch_logits(tmp_path / "unscaled", IDS)).max() > 1e-4
    np.testing.assert_allclose(adapted, torch_logits(tmp_path / "merged", IDS), atol=1e-5)
    np.testing.assert_allclose(adapted, folder_logits(tmp_path / "gguf/model.gguf", IDS), atol=1e-5)


def test_the_card_has_the_verdict_and_the_whole_configuration(calibrated):
    run = calibrated / "runs/tiny"
    text = (run / "export/adapter/README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "peft" and "base_model" not in front  # a folder is no name on the Hub
    verdict = (run / "report.md").read_text().splitlines()[2]
    assert re.fullmatch(r"\*\*relevance: [A-Z]+\. Asked \+0\.010, measured .*\*\*  ", verdict)
    assert verdict in body.splitlines()
    for part in (
        "λ: relevance",
        "trained: one preference step with the reward r + ⟨λ, g⟩, scaled by ",
        "kind relevance",
        "margin 0.01",
        "heldout.jsonl",
        "at 95% confidence",
    ):
        assert part in body
    assert str(calibrated) not in body
    config, _ = parse_run(["--config", str(run / "export/adapter/run.yaml"), "--run_dir", str(run.parent)])
    assert config == parse_run(["--config", str(calibrated / "tiny.yaml")])[0]


def test_the_revision_of_the_base_is_told(copy, tmp_path):
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    decoder, _ = trained_decoder(run)
    assert "revision" not in card(run, "adapter")
    run.config = replace(run.config, model=replace(run.config.model, revision="v1.2"))  # its files are open
    write_model(run, "adapter", decoder, 1.0, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["revision"] == "v1.2"
    text = card(run, "adapter")
    assert text.count('from_pretrained(base, revision="v1.2")') == 2 and ", revision `v1.2`, SHA-256" in text


def test_what_ends_a_measured_response_ends_one_of_the_export(copy, tmp_path):
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    assert "end tokens" not in card(run, "merged") and "model.gguf -r" not in card(run, "gguf")
    stop = ("\n", "|", "`")
    run.config = replace(run.config, sample=replace(run.config.sample, stop=stop))
    write_model(run, "merged", trained_decoder(run)[0], 1.0, tmp_path)
    theirs = GenerationConfig.from_pretrained(tmp_path)
    ids = [bare_ids(text, run.files.tokenizer)[0] for text in stop]
    assert theirs.eos_token_id == sorted([*run.files.ends, *ids])
    assert (json.loads((tmp_path / "config.json").read_text())["eos_token_id"],) == run.files.ends
    said = r'end tokens end a response, and so does `"\n"` or `"\|"` or `"\u0060"` |'
    assert all(said in card(run, form) for form in ("adapter", "merged", "gguf"))
    assert "llama-cli -m model.gguf -r '\\n' -r '|' -r '`'\n" in card(run, "gguf")


def test_the_adapter_that_was_merged_first_is_told(copy):
    """The hash is of base and adapter; under the base's name alone nobody could get to it."""
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    assert "merged" not in card(run, "adapter")
    run.config = replace(
        run.config, model=replace(run.config.model, adapter="/home/me/runs/sft/export/adapter")
    )
    text = card(run, "merged")
    assert ", with the adapter `sft/export/adapter` merged, aligned by" in text and "/home" not in text
    assert re.search(r"\| base model \| .*, SHA-256 of its files and the adapter's together \w{12}… \|\n"
                     r"\| adapter merged first \| `sft/export/adapter` \|\n\| prompts", text)  # fmt: skip


def test_the_versions_of_the_training_are_told(copy):
    run = Run(parse_run(["--config", str(copy / "tiny.yaml"), "--run_dir", str(copy / "runs")])[0])
    made = [line for line in card(run, "adapter").splitlines() if line.startswith("Made with ")]
    later = json.loads((run.folder / "versions.json").read_text()) | {"cann_jax": "9.9", "jax": "99.1"}
    (run.folder / "versions.json").write_text(json.dumps(later))
    text = card(run, "adapter")
    assert (
        text.endswith(f"{made[0]}\nExported with cann_jax 9.9, jax 99.1.\n") and "`cann_jax` 9.9" not in text
    )
    (run.folder / "align/versions.json").unlink()  # as of runs of before
    assert "\nMade with cann_jax 9.9," in card(run, "adapter")


def test_full_fine_tuning_from_end_to_end(again, copy, tiny_folder):
    said = again("--align.lora", "null", "--export", "[merged]")
    assert "evaluate: inputs.align:" in said
    folder = copy / "runs/tiny/export/merged"
    np.testing.assert_allclose(torch_logits(folder, IDS), folder_logits(folder, IDS), atol=1e-4)
    assert np.abs(torch_logits(folder, IDS) - torch_logits(tiny_folder, IDS)).max() > 1e-4
    assert not (copy / "runs/tiny/export/adapter").exists()


def test_exports_that_cannot_be(again):
    with pytest.raises(InputError, match=r"export has adapter, and align\.lora is null"):
        again("--align.lora", "null")
    with pytest.raises(InputError, match=r"export has adapter, but model\.adapter is a part"):
        again("--model.adapter", "somewhere")
    with pytest.raises(InputError, match=r"it must be a list like .*: a list that names each format once"):
        again("--export", "[merged, merged]")
