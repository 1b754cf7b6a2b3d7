"""Every error that this project raises on purpose, by who has to act.

::

    DeployError
    ├── UserError               the form, the file or the request is wrong; never retried
    │   ├── ConfigurationError  settings that cannot work, all problems at once
    │   ├── ModelError          a model that cannot be had or used
    │   │   ├── ModelNotFoundError
    │   │   ├── ModelAccessError      gated or private: no token, or the token has no access
    │   │   └── ModelFormatError      not GGUF, truncated, an architecture the engine lacks
    │   └── RequestError        one HTTP request (status and OpenAI `type`/`code`/`param`)
    ├── ModelUnavailableError   the server that has the model does not answer; later may work
    ├── CapacityError           no space, no memory, too many requests, not ready yet
    ├── EngineError             the engine process failed
    │   ├── EngineMissingError        no engine is installed
    │   ├── EngineConfigurationError  the engine refuses what it was told; restarting cannot help
    │   └── EngineCrashError          it died or hung; restarting may help
    ├── ControlPlaneError       the ClearML server or its agent
    │   ├── RefusedError              the server does not do what it was asked
    │   └── ServerAwayError           the server cannot be reached now; trying again may help
    └── InternalError           our own mistake

A message says what happened with the user's own names, why, and what to do. It never holds a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class DeployError(Exception):
    """Base of all; `code` is stable and machine-readable, `http_status` what a client would get."""

    code = "error"
    http_status = 500


class UserError(DeployError):
    """What the user gave cannot work; the same input will fail again."""

    code = "invalid_input"
    http_status = 400


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        message: What is wrong and what is allowed, a sentence without the field's name.
        title: The form's title of the field, empty when the problem belongs to no single field.
        path: Parameter path such as ``Model/temperature`` or ``Models/models[1].temperature``.
        value: The offending value as the user gave it; None when missing or secret.
    """

    message: str
    title: str = ""
    path: str = ""
    value: Any = None

    def __str__(self) -> str:
        if not self.path:
            return self.message
        name = f'"{self.title}" ({self.path})' if self.title else self.path
        given = "" if self.value is None else f" = {self.value!r}"
        return f"{name}{given}: {self.message}"


class ConfigurationError(UserError):
    """Settings that cannot work: all their problems together."""

    code = "invalid_configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"The configuration has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class ModelError(UserError):
    """A model that cannot be had or used."""

    code = "model_error"


class ModelNotFoundError(ModelError):
    """The reference names nothing: no such model, repository, revision or file."""

    code = "model_not_found"
    http_status = 404


class ModelAccessError(ModelError):
    """The model is gated or private, and there is no token or it has no access."""

    code = "model_access_denied"
    http_status = 403


class ModelFormatError(ModelError):
    """The file is not what the engine can load."""

    code = "model_format"


class ModelUnavailableError(DeployError):
    """The server that holds the model cannot be reached or broke off; later may work."""

    code = "model_unavailable"
    http_status = 503


class RequestError(UserError):
    """One HTTP request that is refused, in the terms of OpenAI's error envelope."""

    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        error_type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = status
        self.error_type = error_type
        self.code = code or type(self).code
        self.param = param
        self.retry_after_s = retry_after_s


class CapacityError(DeployError):
    """There is not enough of something (disk, memory, slots); smaller or later may work.

    `retry_after_s` is when, in seconds from now, where that can be told.
    """

    code = "capacity"
    http_status = 503

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(DeployError):
    """The engine process failed; `exit_code` and its last output lines are kept.

    `lacks_memory`: for want of memory, so that later may work.
    """

    code = "engine_error"
    http_status = 502
    lacks_memory = False

    def __init__(
        self, message: str, *, exit_code: int | None = None, tail: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.tail = tuple(tail)


class EngineMissingError(EngineError):
    """No engine that could run this is installed."""

    code = "engine_missing"


class EngineConfigurationError(EngineError):
    """The engine refuses what it was told to do; restarting cannot help."""

    code = "engine_configuration"


class EngineCrashError(EngineError):
    """The engine died, hung or did not become ready in time."""

    code = "engine_crashed"


class ControlPlaneError(DeployError):
    """The ClearML server or its agent did not do what was asked."""

    code = "control_plane"


class RefusedError(ControlPlaneError):
    """The ClearML server's answer is an error; `status` and `subcode` are its own codes."""

    code = "refused"

    def __init__(self, message: str, *, status: int, subcode: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.subcode = subcode


class ServerAwayError(ControlPlaneError):
    """The ClearML server cannot be reached, or is overloaded; the same call may work later."""

    code = "server_away"
    http_status = 503


class InternalError(DeployError):
    """A mistake of this program."""

    code = "internal"
