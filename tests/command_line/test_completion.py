"""``cann-jax completion``: what bash offers behind a word."""

import shlex
import subprocess

import pytest

from cann_jax.command_line.completion import completion_script


def offered(*words: str) -> list[str]:
    """Return what bash offers for the last word."""
    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_cann_jax"
    script = f'{completion_script("bash")}\n{line}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("repo",), {"report"}),
        (("train", "--align.lora.r"), {"--align.lora.rank"}),
        (("train", "--require", ""), {"holds", "null"}),
        (("export", "--format", ""), {"adapter", "merged", "gguf"}),
        (("judge", "--judge.mo"), {"--judge.model"}),
        (("completion", ""), {"bash", "zsh", "tcsh", "fish"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_keys_and_words(words, expected):
    assert set(offered("cann-jax", *words)) == expected


def test_files(tmp_path):
    (tmp_path / "scores.parquet").touch()
    assert offered("cann-jax", "dual", "--scores", f"{tmp_path}/sc") == [f"{tmp_path}/scores.parquet"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish"])
def test_other_shells(shell):
    assert "compile-check" in completion_script(shell)
