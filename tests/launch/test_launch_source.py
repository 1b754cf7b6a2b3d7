"""What an agent is told to check out, from real git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.errors import UserError
from common.launch.source import git_url, local_checkout, requirements


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a checkout"
    root.mkdir()
    git(root, "init", "-q", "-b", "work")
    (root / "file.txt").write_text("one\n")
    git(root, "add", "file.txt")
    git(root, "commit", "-qm", "first")
    return root


def test_a_clean_checkout_can_be_cloned_from_its_url(checkout: Path, tmp_path: Path) -> None:
    source = local_checkout("llamacpp", checkout)
    assert (source.branch, source.diff) == ("work", "")
    assert source.commit == git(checkout, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", source.repository, "clone")
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == source.commit


def test_uncommitted_changes_apply_to_the_clone(checkout: Path, tmp_path: Path) -> None:
    (checkout / "file.txt").write_text("one\ntwo  \n")
    source = local_checkout("llamacpp", checkout)
    git(tmp_path, "clone", "-q", source.repository, "clone")
    (tmp_path / "change.diff").write_text(source.diff)
    git(tmp_path / "clone", "apply", str(tmp_path / "change.diff"))
    assert (tmp_path / "clone" / "file.txt").read_text() == "one\ntwo  \n"


def test_a_detached_checkout_has_no_branch(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "--detach")
    assert local_checkout("llamacpp", checkout).branch == ""


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no git checkout.*--repository"):
        local_checkout("llamacpp", tmp_path)


def test_git_says_itself_what_is_wrong(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(UserError, match=r"git rev-parse failed"):
        local_checkout("llamacpp", tmp_path)


def test_a_machine_without_git_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="git is not installed"):
        local_checkout("llamacpp", checkout)


def test_requirements_are_the_packages_own_and_those_of_the_engine() -> None:
    own = requirements("")
    assert any(line.startswith("clearml") for line in own)
    assert not any(line.startswith("xllamacpp") for line in own)
    more = requirements("llamacpp")
    assert set(own) < set(more)
    assert any(line.startswith("xllamacpp") for line in more)
    assert git_url("https://h/r.git", "b", "c", "llamacpp").packages == more


@pytest.mark.parametrize("app", ["vllm", "legacy_model"])
def test_a_vllm_is_never_installed_into_the_agents_environment(app: str) -> None:
    assert requirements(app) == requirements("")
    assert not any(line.lower().startswith(("vllm", "torch")) for line in requirements(app))


def test_files_of_the_program_that_git_does_not_track_are_named(checkout: Path) -> None:
    (checkout / "common").mkdir()
    (checkout / "common" / "new.py").write_text("x = 1\n")
    (checkout / "elsewhere.txt").write_text("y")
    assert local_checkout("llamacpp", checkout).left_out == ("common/new.py",)
