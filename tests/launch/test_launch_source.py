"""What an agent is told to check out, from real git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.errors import UserError
from common.launch.source import (
    Source,
    choose_source,
    git_origin,
    git_url,
    local_checkout,
    requirements,
    without_password,
)


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


@pytest.fixture
def pushed(checkout: Path, tmp_path: Path) -> Path:
    """A checkout whose commit is in its remote's branch ``work``."""
    bare = tmp_path / "origin.git"
    git(tmp_path, "init", "-q", "--bare", str(bare))
    git(checkout, "remote", "add", "origin", str(bare))
    git(checkout, "push", "-q", "origin", "work")
    return checkout


def test_git_is_the_origin_at_the_commit_at_hand(pushed: Path, tmp_path: Path) -> None:
    (pushed / "file.txt").write_text("one\ntwo\n")
    source = git_origin("llamacpp", root=pushed)
    assert source.repository == str(tmp_path / "origin.git")
    assert (source.branch, source.commit) == ("work", git(pushed, "rev-parse", "HEAD"))
    # Changes that nobody committed reach the agent all the same.
    assert "+two" in source.diff
    assert source.packages == requirements("llamacpp")


def test_the_commit_counts_not_the_name_of_the_branch(pushed: Path) -> None:
    git(pushed, "checkout", "-q", "-b", "renamed-here")
    assert git_origin("llamacpp", root=pushed).branch == "work"
    git(pushed, "checkout", "-q", "--detach")
    assert git_origin("llamacpp", root=pushed).branch == "work"


def test_another_branch_or_commit_comes_without_the_changes_of_this_one(pushed: Path) -> None:
    (pushed / "file.txt").write_text("three\n")
    source = git_origin("llamacpp", branch="release", root=pushed)
    assert (source.branch, source.commit, source.diff) == ("release", "", "")
    assert git_origin("llamacpp", commit="abc", root=pushed).commit == "abc"


def test_a_commit_that_is_not_pushed_is_refused(pushed: Path) -> None:
    (pushed / "file.txt").write_text("two\n")
    git(pushed, "commit", "-qam", "second")
    commit = git(pushed, "rev-parse", "HEAD")[:12]
    with pytest.raises(
        UserError, match=rf"{commit}.*is not in .*origin.git.*Push it.*--source local"
    ):
        git_origin("llamacpp", root=pushed)
    git(pushed, "push", "-q", "origin", "work")
    assert git_origin("llamacpp", root=pushed).commit.startswith(commit)


def test_a_checkout_without_a_remote_is_refused(checkout: Path) -> None:
    with pytest.raises(UserError, match=r'no remote "origin".*--repository URL.*--source local'):
        git_origin("llamacpp", root=checkout)


def test_an_installation_from_nowhere_is_told_its_ways(tmp_path: Path) -> None:
    # The package of this environment was installed from a folder.
    with pytest.raises(UserError, match=r"--repository URL, or --source installed"):
        choose_source(None, "llamacpp", root=tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:token@h/r.git", "https://h/r.git"),
        ("https://token@h:8443/r.git", "https://h:8443/r.git"),
        ("ssh://git:pw@h/r.git", "ssh://git@h/r.git"),
        ("git@h:org/r.git", "git@h:org/r.git"),
        ("https://h/r.git", "https://h/r.git"),
        ("/srv/r@2.git", "/srv/r@2.git"),
    ],
)
def test_no_password_of_a_url_gets_into_a_task(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert git_url(url, "", "", "llamacpp").repository == shown


def test_the_source_that_suits(pushed: Path) -> None:
    assert choose_source(None, "llamacpp", root=pushed).repository == pushed.as_uri()
    assert choose_source("git", "llamacpp", root=pushed).repository.endswith("origin.git")
    given = choose_source(None, "llamacpp", repository="https://h/r.git", branch="b", root=pushed)
    assert (given.repository, given.branch) == ("https://h/r.git", "b")
    assert choose_source("installed", "llamacpp", root=pushed) == Source()


@pytest.mark.parametrize("kind", ["local", "installed"])
def test_what_belongs_to_git_alone_is_refused_elsewhere(kind: str, checkout: Path) -> None:
    with pytest.raises(
        UserError, match=f"--branch belongs to --source git, not to --source {kind}"
    ):
        choose_source(kind, "llamacpp", branch="b", root=checkout)  # type: ignore[arg-type]
