"""Options that every app has: the instance's entry fields, the gateway's own, and idling."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import SecretStr

from common.errors import Problem
from common.options.declaration import OptionGroup, option

_MARKUP = "<>\"'`"
_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")

AuthMode = Literal["api_key", "clearml", "gateway", "none"]


class InstanceOptions(OptionGroup):
    """What the form asks first; these are attributes of the ClearML task, not hyperparameters."""

    instance_name: str | None = option(
        "Instance Name", help="Name of the instance: the name of its ClearML task."
    )
    service_project: str | None = option(
        "Service Project - Access Control",
        named="Service Project",
        help="The ClearML project that the instance's task is created in. Who may read the project may use "
        "the instance, where the server has access control.",
    )
    queue: str | None = option(
        "Queue",
        required=True,
        help="The ClearML queue to launch through; a clearml-agent must serve it.",
    )


class GeneralOptions(OptionGroup):
    """Shared by all models of an instance, in every app."""

    section: ClassVar[str] = "General"

    gateway_route: str | None = option(
        "AI Gateway Route",
        named="Gateway Route",
        help="Route that an administrator configured, to use as the endpoint. Empty: an ephemeral one. Only "
        "on servers with the AI Application Gateway.",
        placeholder="Choose a route, otherwise a dynamic route will be used",
    )
    hugging_face_token: SecretStr | None = option(
        "Hugging Face Token",
        secret=True,
        help="Token for gated or private Hugging Face models. Whoever may read the task can read it: "
        "prefer the variable HF_TOKEN in the worker's environment.",
    )
    auth: AuthMode | None = option(
        "Auth",
        help="Who may use the endpoints: api_key, clearml (a ClearML token that may read this task), "
        "gateway (an AI Application Gateway in front has authenticated), none. Empty: gateway once the "
        "server granted a route, else api_key.",
    )
    api_key: SecretStr | None = option(
        "API Key",
        secret=True,
        help="Key that clients send as a bearer token. Empty: one is generated.",
    )
    host: str | None = option("Host", help="Address to listen on. Empty: all interfaces.")
    port: str | None = option(
        "Port",
        help="Port, or a range such as 8800-8899 of which the first free one is used. Empty: the first "
        "free one from 8800.",
    )
    public_url: str | None = option(
        "Public URL",
        help="URL under which clients reach this instance, when it is not the worker's address and port.",
    )
    tls_certificate_file: str | None = option(
        "TLS Certificate File",
        help="PEM file on the worker with the certificate to serve HTTPS with, followed by those up to its "
        "authority's. Read again when it changes. Empty: plain HTTP.",
    )
    tls_key_file: str | None = option(
        "TLS Key File",
        help="PEM file on the worker with the private key of the TLS certificate, not encrypted.",
    )
    cors_origins: str | None = option(
        "CORS Origins",
        help="Origins whose pages may use the endpoints from a browser, such as https://app.example.com, "
        "separated by commas; * for all. Empty: none.",
    )
    drain_seconds: float = option(
        "Drain (Seconds)",
        default=30.0,
        ge=0,
        le=1500,
        help="How long running requests may go on after the instance was told to stop.",
    )
    max_body_mib: float = option(
        "Max Body (MiB)", default=64.0, gt=0, help="Largest request body in MiB."
    )

    def problems(self) -> list[Problem]:
        """Port ranges and URLs that cannot be used."""
        found = super().problems()
        try:
            self.ports()
        except ValueError as error:
            found.append(Problem(str(error), path="port", value=self.port))
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            message = "must start with http:// or https://"
            found.append(Problem(message, path="public_url", value=self.public_url))
        # A form's dashboard, and the access example, show it as it is.
        if any(char in _MARKUP or char.isspace() for char in self.public_url or ""):
            message = "must not contain white space or any of < > \" ' `"
            found.append(Problem(message, path="public_url", value=self.public_url))
        for origin in self.origins():
            if not _ORIGIN.fullmatch(origin):
                message = f"{origin!r} is no origin: * or, without a path, https://host or http://host:port"
                found.append(Problem(message, path="cors_origins", value=self.cors_origins))
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            missing = "tls_key_file" if self.tls_certificate_file else "tls_certificate_file"
            message = "is needed as well: HTTPS takes a certificate and its private key"
            found.append(Problem(message, path=missing))
        return found

    def origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`, one by one."""
        given = (self.cors_origins or "").replace(",", " ").split()
        return tuple(origin.rstrip("/") for origin in given)

    @property
    def is_debug(self) -> bool:
        """Whether more is said on the console."""
        return False

    @property
    def shows_engine_output(self) -> bool:
        """Whether the engine's own output is on the console."""
        return True

    @property
    def client_key(self) -> str | None:
        """The key that the user chose for clients, under whichever name the form has for it."""
        return self.api_key.get_secret_value() if self.api_key else None

    def ports(self) -> range:
        """Ports to try in order.

        Raises:
            ValueError: Not a port or a range of ports.
        """
        if not self.port:
            return range(8800, 8900)
        first, dash, last = (part.strip() for part in self.port.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError("must be a port such as 8800 or a range such as 8800-8899")
        low, high = int(first), int(last) if dash else int(first)
        if not (1 <= low <= high <= 65535):
            raise ValueError("ports are from 1 to 65535, the lower one first")
        return range(low, high + 1)


class DebugOptions(GeneralOptions):
    """General, of an app that can say more on the console."""

    enable_debug_mode: bool | None = option(
        "Enable Debug Mode", help="Run the deployment in debug mode: more on the console."
    )

    @property
    def is_debug(self) -> bool:
        """Whether more is said on the console."""
        return bool(self.enable_debug_mode)


class IdleLimit(OptionGroup):
    """When the instance counts as idle."""

    section: ClassVar[str] = "Idle"

    idle_time_limit_hours: float | None = option(
        "Idle Time Limit (Hours)",
        ge=0,
        help="After so many hours without a request the instance shuts down. Empty or 0: never.",
    )

    @property
    def report_interval_s(self) -> float:
        """How often the last activity is reported, in seconds."""
        return 600.0


class IdleOptions(IdleLimit):
    """When the instance counts as idle, and how often it says that it was used."""

    last_action_report_interval_seconds: float = option(
        "Last Action Report Interval (Seconds)",
        default=600.0,
        gt=0,
        help="How often the last activity is reported, so that an instance whose machine metrics are low "
        "is not taken for idle.",
    )

    @property
    def report_interval_s(self) -> float:
        """How often the last activity is reported, in seconds."""
        return self.last_action_report_interval_seconds
