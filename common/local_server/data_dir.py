"""Where the local server keeps what: every path below one data directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def default_data_dir() -> Path:
    """The data directory of a person who named none: ``~/.clearml-deploy/local``."""
    return Path.home() / ".clearml-deploy" / "local"


@dataclass(frozen=True)
class DataDir:
    """Names below the data directory `root`."""

    root: Path

    @property
    def database(self) -> Path:
        """SQLite database."""
        return self.root / "server.sqlite"

    @property
    def files(self) -> Path:
        """What the file server serves."""
        return self.root / "files"

    @property
    def incoming(self) -> Path:
        """Uploads in progress; on the same file system as `files`, so that a rename ends them."""
        return self.root / "incoming"

    @property
    def credentials(self) -> Path:
        """First user's keys and the token secret, mode 600."""
        return self.root / "credentials.json"

    @property
    def config_file(self) -> Path:
        """`clearml.conf` for the SDK, mode 600."""
        return self.root / "clearml.conf"

    @property
    def agent_config_file(self) -> Path:
        """`clearml.conf` for the agent, mode 600."""
        return self.root / "agent.conf"

    @property
    def git_config(self) -> Path:
        """The agent's global git configuration."""
        return self.root / "agent.gitconfig"

    @property
    def server_state(self) -> Path:
        """The running server: pid and addresses."""
        return self.root / "server.json"

    @property
    def agent_state(self) -> Path:
        """The running agent: pid and queue."""
        return self.root / "agent.json"

    @property
    def ports(self) -> Path:
        """The ports of the last start: taken again, since stored file addresses hold them."""
        return self.root / "ports.json"

    @property
    def server_lock(self) -> Path:
        """Held by the server process for as long as it lives."""
        return self.root / "server.lock"

    @property
    def command_lock(self) -> Path:
        """Held while a command starts or stops the server and the agent."""
        return self.root / "command.lock"

    @property
    def server_log(self) -> Path:
        """Output of the server process."""
        return self.root / "logs" / "server.log"

    @property
    def agent_log(self) -> Path:
        """Output of the agent process."""
        return self.root / "logs" / "agent.log"

    @property
    def cache(self) -> Path:
        """Caches of the SDK and the agent."""
        return self.root / "cache"

    @property
    def agent_home(self) -> Path:
        """The agent's own folders: clones, environments, task output."""
        return self.root / "agent"

    def create(self) -> None:
        """Make the directories, readable by their owner alone."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, 0o700)
        for path in (
            self.files,
            self.incoming,
            self.server_log.parent,
            self.cache,
            self.agent_home,
        ):
            path.mkdir(parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)
