"""Where an agent gets the program from: this checkout."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]
_GIT_TIMEOUT_S = 30


@dataclass(frozen=True)
class Source:
    """What an agent checks out and installs.

    Attributes:
        repository: Git URL.
        branch: Branch name, empty for a detached checkout.
        commit: Commit.
        diff: Uncommitted changes of tracked files, applied by the agent.
        packages: pip requirements.
        left_out: Files of the program that git does not track: an agent does not get them.
    """

    repository: str
    branch: str
    commit: str
    diff: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def local_checkout(extra: str, root: Path = _ROOT) -> Source:
    """Describe the checkout that this program runs from, for agents on this machine.

    Args:
        extra: The engine's extra of this package (``llamacpp``), whose requirements are added. vLLM has
            none: gigabytes, which the worker's image has or `General/vllm_version` asks for.
        root: The checkout.

    Raises:
        UserError: The program does not run from a git checkout.
    """
    if not (root / ".git").exists():
        raise UserError(
            f"{root} is no git checkout, so an agent could not get the program from it. "
            "Run clearml-deploy from a clone of its repository, or give --repository."
        )
    return Source(
        repository=root.as_uri(),
        branch=_git(root, "branch", "--show-current"),
        commit=_git(root, "rev-parse", "HEAD"),
        diff=_git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", strip=False),
        packages=requirements(extra),
        left_out=tuple(
            _git(root, "ls-files", "--others", "--exclude-standard", "apps", "common").splitlines()
        ),
    )


def git_url(repository: str, branch: str, commit: str, extra: str) -> Source:
    """Describe a repository that the agent can reach by URL."""
    return Source(repository, branch, commit, "", requirements(extra))


def requirements(extra: str) -> tuple[str, ...]:
    """The package's own requirements with those of an engine's extra, as installed."""
    found = []
    for line in metadata.requires("clearml-deploy") or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or marker.replace("'", '"') == f'extra == "{extra}"':
            found.append(requirement)
    return tuple(found)


def _git(root: Path, *arguments: str, strip: bool = True) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise UserError("git is not installed; it tells an agent what to check out.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {arguments[0]} failed in {root}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"git {arguments[0]} took more than {_GIT_TIMEOUT_S} s in {root}."
        ) from error
    return done.stdout.strip() if strip else done.stdout
