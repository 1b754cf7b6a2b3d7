"""Who may use an instance: the key that clients send, given or made, and its authenticator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.errors import ConfigurationError, Problem
from common.gateway.auth import ApiKeyAuthenticator, Authenticator, OpenAuthenticator
from common.gateway.key_file import default_key_file
from common.gateway.keys import generate_key
from common.options.shared import GeneralOptions


@dataclass(frozen=True)
class Access:
    """How clients get in.

    Attributes:
        authenticator: Decides.
        key: The instance's own key; None where there is none.
        is_generated: Whether the key was made here, so that nobody knows it yet.
    """

    authenticator: Authenticator
    key: str | None = None
    is_generated: bool = False


def make_access(
    general: GeneralOptions, environ: Mapping[str, str], log: Callable[[str], None]
) -> Access:
    """Read who may use the instance from its settings.

    Args:
        general: The settings.
        environ: Names the file of further keys.
        log: Gets warnings.

    Raises:
        ConfigurationError: A way that this version does not have.
    """
    mode = general.auth or "api_key"
    if mode == "none":
        log(
            "WARNING: authentication is off (General/auth = none): whoever reaches the port can use it."
        )
        return Access(OpenAuthenticator())
    if mode != "api_key":
        message = "is not available yet: use api_key or none"
        raise ConfigurationError([Problem(message, title="Auth", path="General/auth", value=mode)])
    given = general.client_key
    key = given or generate_key()
    authenticator = ApiKeyAuthenticator(key, default_key_file(environ), log=log)
    return Access(authenticator, key, is_generated=not given)
