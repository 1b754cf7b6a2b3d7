"""The git checkout that this program runs from, as git itself tells of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

_GIT_TIMEOUT_S = 30
_REMOTE = "origin"


@dataclass(frozen=True)
class Checkout:
    """A git checkout; every question runs git.

    Attributes:
        root: Its folder.
    """

    root: Path

    def commit(self) -> str:
        """The commit that is checked out."""
        return self._git("rev-parse", "HEAD")

    def branch(self) -> str:
        """The branch that is checked out, empty for none."""
        return self._git("branch", "--show-current")

    def diff(self) -> str:
        """Uncommitted changes of tracked files."""
        return self._git("diff", "HEAD", "--no-color", "--no-ext-diff", strip=False)

    def untracked(self, *folders: str) -> tuple[str, ...]:
        """Files in these folders that git does not track and does not ignore."""
        found = self._git("ls-files", "--others", "--exclude-standard", *folders)
        return tuple(found.splitlines())

    def origin(self) -> str:
        """URL of the remote ``origin``, empty where there is none."""
        if _REMOTE not in self._git("remote").splitlines():
            return ""
        return self._git("remote", "get-url", _REMOTE)

    def branches_with_head(self) -> tuple[str, ...]:
        """The branches of ``origin`` that have the commit, as of the last push or fetch."""
        prefix = f"refs/remotes/{_REMOTE}/"
        found = self._git("for-each-ref", "--contains", "HEAD", "--format=%(refname)", prefix)
        names = (line.removeprefix(prefix) for line in found.splitlines())
        return tuple(name for name in names if name != "HEAD")

    def _git(self, *arguments: str, strip: bool = True) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=_GIT_TIMEOUT_S,
            )
        except FileNotFoundError:
            raise UserError("git is not installed; it tells an agent what to check out.") from None
        except subprocess.CalledProcessError as error:
            raise UserError(
                f"git {arguments[0]} failed in {self.root}: {error.stderr.strip()}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"git {arguments[0]} took more than {_GIT_TIMEOUT_S} s in {self.root}."
            ) from error
        return done.stdout.strip() if strip else done.stdout


def find_checkout(root: Path) -> Checkout | None:
    """The checkout in a folder, None where there is none."""
    return Checkout(root) if (root / ".git").exists() else None
