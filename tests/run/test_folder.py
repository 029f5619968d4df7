"""The commit of a checkout that a run records, as git itself tells it."""

import subprocess

from cann_jax.run.folder import commit_of


def test_the_commit_of_a_checkout_and_of_a_worktree(tmp_path):
    def git(*words: str, folder=tmp_path / "own") -> str:
        given = ("-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder))
        return subprocess.run(["git", *given, *words], check=True, capture_output=True, text=True).stdout

    (tmp_path / "own").mkdir()
    assert commit_of(tmp_path / "own") is None
    git("init")
    assert commit_of(tmp_path / "own") is None
    git("commit", "--allow-empty", "-m", "first")
    git("worktree", "add", "-b", "other", str(tmp_path / "tree"))
    git("commit", "--allow-empty", "-m", "second", folder=tmp_path / "tree")
    for step in ((), ("pack-refs", "--all"), ("checkout", "--detach")):
        if step:
            git(*step)
        for folder in (tmp_path / "own", tmp_path / "tree"):
            assert commit_of(folder) == git("rev-parse", "HEAD", folder=folder).strip()
