"""The commit that a run is made from, read without running git."""

import subprocess

from foolbox_carescale.evaluate.runner.environment import commit_of, describe


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_git(tmp_path):
    folder = tmp_path / "repository"
    inside = folder / "a" / "b"
    inside.mkdir(parents=True)
    assert commit_of(inside) == ""
    git(folder, "init", "-q", "-b", "main")
    assert commit_of(inside) == ""  # no commit yet
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    first = git(folder, "rev-parse", "HEAD")
    assert commit_of(inside) == first
    assert describe("cpu", inside).endswith(f"commit {first[:12]}")
    git(folder, "pack-refs", "--all")
    assert commit_of(inside) == first
    git(folder, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "second")
    assert commit_of(tmp_path / "other") == git(tmp_path / "other", "rev-parse", "HEAD") != first
    git(folder, "checkout", "-q", "--detach")
    assert commit_of(inside) == first
    (folder / ".git" / "HEAD").write_text("ref: ../../secret")
    assert commit_of(inside) == ""
