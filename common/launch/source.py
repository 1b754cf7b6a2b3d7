"""Where an agent gets the program from: a git URL, the checkout at hand, or its own environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from common.errors import UserError
from common.launch.checkout import Checkout, find_checkout

SourceKind = Literal["git", "local", "installed"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)

_PACKAGE = "clearml-deploy"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Source:
    """What an agent checks out and installs.

    Attributes:
        repository: Git URL; empty where the agent's environment has the program installed.
        branch: Branch name, empty for a detached checkout.
        commit: Commit.
        diff: Uncommitted changes of tracked files, applied by the agent.
        packages: pip requirements.
        left_out: Files of the program that git does not track: an agent does not get them.
    """

    repository: str = ""
    branch: str = ""
    commit: str = ""
    diff: str = ""
    packages: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def choose_source(
    kind: SourceKind | None,
    extra: str,
    *,
    repository: str = "",
    branch: str = "",
    commit: str = "",
    root: Path = _ROOT,
) -> Source:
    """Find the source that was asked for, or the one that suits how this program was installed.

    Args:
        kind: ``git``, ``local`` or ``installed``. None: ``git`` with a repository given or with no checkout
            here, else ``local``.
        extra: The engine's extra of this package (``llamacpp``), whose requirements are added.
        repository: Git URL that the agent clones.
        branch: Branch of it.
        commit: Commit of it.
        root: Where this program runs from.

    Raises:
        UserError: It cannot be had, or what was given contradicts itself.
    """
    named = [
        option
        for option, value in (
            ("--repository", repository),
            ("--branch", branch),
            ("--commit", commit),
        )
        if value
    ]
    if kind is None:
        kind = "git" if named or find_checkout(root) is None else "local"
    if kind != "git" and named:
        raise UserError(f"{named[0]} belongs to --source git, not to --source {kind}.")
    if kind == "installed":
        return Source()
    if kind == "local":
        return local_checkout(extra, root)
    if repository:
        return git_url(repository, branch, commit, extra)
    return git_origin(extra, branch, commit, root)


def git_url(repository: str, branch: str, commit: str, extra: str) -> Source:
    """Describe a repository that the agent can reach by URL."""
    return Source(without_password(repository), branch, commit, "", requirements(extra))


def git_origin(extra: str, branch: str = "", commit: str = "", root: Path = _ROOT) -> Source:
    """Describe what this program was cloned or installed from, at the commit at hand.

    Args:
        extra: The engine's extra of this package.
        branch: Another branch than the present one.
        commit: Another commit than the present one.
        root: Where this program runs from.

    Raises:
        UserError: Nothing tells where it came from, or the commit is not there.
    """
    checkout = find_checkout(root)
    if checkout is None:
        url, installed = _installed_from()
        if not url:
            raise UserError(
                f"{root} is no git checkout, and clearml-deploy was not installed from a git URL, so "
                "nothing tells what an agent should clone. Give --repository URL, or --source installed "
                "for workers that have clearml-deploy installed."
            )
        return git_url(url, branch, commit or ("" if branch else installed), extra)
    url = checkout.origin()
    if not url:
        raise UserError(
            f'The checkout {root} has no remote "origin" that an agent could clone. Give --repository URL, '
            "or --source local for an agent on this machine."
        )
    if branch or commit:
        return git_url(url, branch, commit, extra)
    branches = checkout.branches_with_head()
    if not branches:
        raise UserError(
            f"The commit {checkout.commit()[:12]} of {root} is not in {without_password(url)}, as far as "
            "this checkout knows, so an agent could not check it out. Push it, name another with --commit, "
            "or give --source local for an agent on this machine."
        )
    present = checkout.branch()
    return Source(
        repository=without_password(url),
        branch=present if present in branches else branches[0],
        commit=checkout.commit(),
        diff=checkout.diff(),
        packages=requirements(extra),
        left_out=checkout.untracked("apps", "common"),
    )


def local_checkout(extra: str, root: Path = _ROOT) -> Source:
    """Describe the checkout that this program runs from, for agents on this machine.

    Args:
        extra: The engine's extra of this package (``llamacpp``), whose requirements are added. vLLM has
            none: gigabytes, which the worker's image has or `General/vllm_version` asks for.
        root: The checkout.

    Raises:
        UserError: The program does not run from a git checkout.
    """
    checkout: Checkout | None = find_checkout(root)
    if checkout is None:
        raise UserError(
            f"{root} is no git checkout, so an agent could not get the program from it. "
            "Run clearml-deploy from a clone of its repository, or give --repository."
        )
    return Source(
        repository=root.as_uri(),
        branch=checkout.branch(),
        commit=checkout.commit(),
        diff=checkout.diff(),
        packages=requirements(extra),
        left_out=checkout.untracked("apps", "common"),
    )


def requirements(extra: str) -> tuple[str, ...]:
    """The package's own requirements with those of an engine's extra, as installed."""
    found = []
    for line in metadata.requires(_PACKAGE) or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or marker.replace("'", '"') == f'extra == "{extra}"':
            found.append(requirement)
    return tuple(found)


def without_password(url: str) -> str:
    """A git URL as others may read it: the agent has credentials of its own."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    # The user of an SSH address is part of it; that of a web address may be a token.
    kept = f"{user.partition(':')[0]}@{host}" if "ssh" in parts.scheme else host
    return parts._replace(netloc=kept).geturl()


def _installed_from() -> tuple[str, str]:
    """URL and commit that pip installed this program from, empty where it was no repository."""
    record = json.loads(metadata.distribution(_PACKAGE).read_text("direct_url.json") or "{}")
    vcs = record.get("vcs_info") or {}
    if vcs.get("vcs") != "git":
        return "", ""
    return str(record.get("url") or ""), str(vcs.get("commit_id") or "")
