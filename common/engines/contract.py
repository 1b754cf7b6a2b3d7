"""What the rest of the program knows of an engine: how it is addressed, started and read.

An app (``apps/llamacpp``) implements `EngineProgram`; the supervisor, the gateway and the telemetry
know these types only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class EngineState(str, enum.Enum):
    """States of one engine process (Supervisor's words; ready, since only readiness counts)."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    PARKED = "parked"
    """It runs and is left alone: asleep, it may answer nothing."""
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FATAL = "fatal"


@dataclass(frozen=True)
class EngineAddress:
    """Where one engine process listens: a Unix socket (preferred: no port race) or loopback TCP.

    Exactly one of `socket_path` and `port` is set.

    Attributes:
        socket_path: The socket's file.
        port: The port.
        host: With `port`: the address.
        key: The bearer token that the engine asks for, for a port, which others on the machine reach
            too. Made for one start; the clients' own keys never come so far.
    """

    socket_path: Path | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.socket_path is None) == (self.port is None):
            raise ValueError("an engine listens on a socket path or on a port, and on one of them")

    @property
    def base_url(self) -> str:
        """URL prefix for HTTP requests; the host part is a placeholder for a Unix socket."""
        return "http://engine" if self.socket_path else f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request to it carries: its key, if it has one."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Translated:
    """A setting that is passed under another name or form than its field's own flag."""

    title: str
    path: str
    to: str


@dataclass(frozen=True)
class Unavailable:
    """A setting that this engine cannot honour, with the reason in words for the user."""

    title: str
    path: str
    reason: str


@dataclass(frozen=True)
class EngineCommand:
    """What would run for one model.

    Attributes:
        argv: Program and arguments; holds no secret.
        env: Variables added to the worker's environment; may hold secrets.
        secret_env: Names in `env` whose values must be masked when shown.
        translated: Settings passed in another form.
        unavailable: Settings the user made that have no effect with this engine.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: frozenset[str] = frozenset()
    translated: tuple[Translated, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Why an engine ended, read from its last lines.

    Attributes:
        is_configuration: The same start would fail again: do not restart.
        summary: One sentence for the user, with the engine's own words.
        lacks_memory: It did not get the memory that it asked for; others may leave it theirs.
    """

    is_configuration: bool
    summary: str
    lacks_memory: bool = False


class EngineProgram(Protocol):
    """How to observe one kind of engine once it runs."""

    @property
    def label(self) -> str:
        """Name and version for the console, such as ``llama-server b7000 (/usr/bin/llama-server)``."""

    @property
    def health_path(self) -> str:
        """Path that answers 200 once the engine can serve (503 or refused while it loads)."""

    @property
    def metrics_path(self) -> str | None:
        """Path of the engine's own Prometheus text, None where it has none."""

    def diagnose(self, exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
        """Tell a configuration error from a crash by exit code (None: never ready) and last lines."""


@dataclass(frozen=True)
class EngineSpec:
    """Everything the supervisor needs to run one model's engine.

    Attributes:
        name: The served model name (endpoint name), used to mark console lines.
        command: Program, arguments, environment.
        address: Where it will listen.
        program: How to ask whether it is ready and why it ended.
        cwd: Working directory of the process; None keeps this process's.
    """

    name: str
    command: EngineCommand
    address: EngineAddress
    program: EngineProgram
    cwd: Path | None = None
