"""Who may use an instance, and how it is reached: its authenticator, its key, its certificate."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.clearml.token_access import api_host, certificate_check, may_read_task
from common.errors import ConfigurationError, Problem
from common.gateway.auth import ApiKeyAuthenticator, Authenticator, OpenAuthenticator
from common.gateway.clearml_auth import ClearMLAuthenticator, Verdict
from common.gateway.key_file import default_key_file
from common.gateway.keys import KeyEntry, entries_from_text, generate_key
from common.gateway.tls import CertificateFiles, TlsContexts
from common.options.shared import AuthMode, GeneralOptions
from common.runtime.status import KEY_PLACEHOLDER

KEYS_CONFIGURATION = "api_keys"
"""The configuration object of the task that may hold further keys, hashed."""

SHORT_KEY = 16

OPEN_WARNING = (
    "ANYBODY CAN USE THIS INSTANCE.",
    "Authentication is off (General/auth = none) and it listens on {where}:",
    "whoever reaches the port can use the models and see the console on its page.",
    "Set General/auth to api_key or clearml, or General/host to 127.0.0.1.",
)
GATEWAY_WARNING = (
    "WARNING: General/auth = gateway: every request that reaches the port is let in, as the AI "
    "Application Gateway in front has authenticated it. Make sure that nothing else reaches the port."
)


@dataclass(frozen=True)
class Access:
    """How clients get in.

    Attributes:
        authenticator: Decides.
        mode: The way that was chosen, or that follows from the rest.
        key: The instance's own key; None where there is none.
        is_generated: Whether the key was made here, so that nobody knows it yet.
        warning: What whoever looks at the instance has to know; empty: nothing.
    """

    authenticator: Authenticator
    mode: AuthMode = "api_key"
    key: str | None = None
    is_generated: bool = False
    warning: str = ""

    @property
    def placeholder(self) -> str | None:
        """What stands for the credential in examples; None where none is asked for."""
        return None if self.mode == "none" else KEY_PLACEHOLDER


def make_access(
    general: GeneralOptions,
    environ: Mapping[str, str],
    log: Callable[[str], None],
    *,
    has_route: bool = False,
    task_id: str | None = None,
    task_keys: str = "",
) -> Access:
    """Read who may use the instance from its settings.

    Args:
        general: The settings.
        environ: Names the file of further keys.
        log: Gets warnings.
        has_route: The server granted a route of its AI Application Gateway.
        task_id: The instance's task on the ClearML server; None, or ``offline-...``: there is none.
        task_keys: Further keys, as the task's configuration object `KEYS_CONFIGURATION` holds them.

    Raises:
        ConfigurationError: The keys cannot be read, or there is no server to ask about tokens.
    """
    mode: AuthMode = general.auth or ("gateway" if has_route else "api_key")
    if mode == "none":
        return _open_access(general, log)
    if mode == "gateway":
        log(GATEWAY_WARNING)
        return Access(OpenAuthenticator("gateway"), mode)
    if mode == "clearml":
        return Access(_clearml_authenticator(task_id, log), mode)
    given = general.client_key
    if given and len(given) < SHORT_KEY:
        log(
            f"WARNING: the API key (General/api_key) has {len(given)} characters and may be guessed; leave "
            "the field empty to have one generated."
        )
    key = given or generate_key()
    authenticator = ApiKeyAuthenticator(
        key, default_key_file(environ), _entries_of_task(task_keys), log=log
    )
    return Access(authenticator, mode, key, is_generated=not given)


def make_tls(general: GeneralOptions, log: Callable[[str], None]) -> TlsContexts | None:
    """Load the certificate to serve HTTPS with; None: plain HTTP.

    Raises:
        ConfigurationError: Its files cannot be used.
    """
    if not general.tls_certificate_file or not general.tls_key_file:
        return None
    files = CertificateFiles(
        Path(general.tls_certificate_file).expanduser(), Path(general.tls_key_file).expanduser()
    )
    return TlsContexts(files, log)


def _open_access(general: GeneralOptions, log: Callable[[str], None]) -> Access:
    if is_loopback(general.host):
        log(
            "Authentication is off (General/auth = none): every process of this machine can use it."
        )
        return Access(OpenAuthenticator(), "none")
    where = f"the address {general.host}" if general.host else "all interfaces"
    lines = [line.format(where=where) for line in OPEN_WARNING]
    log(framed(["WARNING", *lines]))
    return Access(OpenAuthenticator(), "none", warning=" ".join(lines))


def _clearml_authenticator(task_id: str | None, log: Callable[[str], None]) -> Authenticator:
    if task_id is None or task_id.startswith("offline-"):
        message = "needs a ClearML server to ask, and this instance runs without one; use api_key"
        raise ConfigurationError([Problem(message, "Auth", "General/auth", "clearml")])
    host, verify = api_host(), certificate_check()

    def ask(token: str) -> Verdict:
        may_read = may_read_task(host, task_id, token, verify=verify)
        if may_read is None:
            return Verdict.UNKNOWN
        return Verdict.MAY_READ if may_read else Verdict.MAY_NOT_READ

    return ClearMLAuthenticator(ask, log=log)


def _entries_of_task(text: str) -> tuple[KeyEntry, ...]:
    try:
        return entries_from_text(text)
    except ValueError as error:
        message = (
            f"the task's configuration object {KEYS_CONFIGURATION!r} cannot be read: {error}; it holds what "
            "`clearml-deploy keys create NAME --print-entry` prints, one entry after the other"
        )
        raise ConfigurationError([Problem(message)]) from error


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def framed(lines: list[str]) -> str:
    """Return lines in a frame that nobody overlooks."""
    width = max(len(line) for line in lines)
    edge = "#" * (width + 4)
    return "\n".join(["", edge, *(f"# {line:<{width}} #" for line in lines), edge, ""])
