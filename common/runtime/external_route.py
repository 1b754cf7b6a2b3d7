"""How clients reach the instance: a route of the AI Application Gateway, or the worker's own address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from common.clearml.external_endpoint import GrantedRoute, NoGatewayError
from common.errors import ControlPlaneError, ServerAwayError
from common.options.shared import GeneralOptions
from common.runtime.access import is_loopback
from common.runtime.background import in_background

T = TypeVar("T")


class Request(Protocol):
    """As `common.clearml.external_endpoint.RouteRequest`."""

    def check(self) -> None:
        """Find out whether the server has a gateway."""

    def ask(self, port: int) -> None:
        """Ask for the route."""

    def look(self) -> GrantedRoute | None:
        """Return the route once it is granted."""


@dataclass(frozen=True)
class RouteTimes:
    """How long to wait for the gateway, in seconds.

    Attributes:
        look_every: Between two looks whether the route was granted.
        tell_every: Between two lines about the waiting.
        patience: After it nobody expects an answer any more; a late one still counts.
        late_every: Between two looks after that, and while the server is away.
    """

    look_every: float = 2.0
    tell_every: float = 15.0
    patience: float = 90.0
    late_every: float = 30.0


def why_no_route(general: GeneralOptions, environ: Mapping[str, str], *, is_offline: bool) -> str:
    """Return why no route is asked for, whatever the server offers; empty: it is asked for."""
    if is_offline:
        return "there is no ClearML server."
    # Where the gateway finds this process, as the SDK tells it.
    if is_loopback(general.host) and not is_loopback(environ.get("CLEARML_AGENT_HOST_IP")):
        return f'"Host" (General/host) = {general.host} keeps the port to this machine.'
    if general.public_url and not general.gateway_route:
        return f'clients use "Public URL" (General/public_url) = {general.public_url}.'
    return ""


class ExternalRoute:
    """Has an instance reached through the gateway where there is one. One task of the event loop.

    Args:
        request: Asks the server; a text: why no route is asked for.
        wish: Static route that the user named; None: none.
        own_url: Where the instance is reached without a route.
        port: Where it listens.
        log: Gets what a person should know.
        publish: Called with the route when it was granted.
        no_route: Called once when it is clear that the own address is what clients use for now.
    """

    def __init__(
        self,
        request: Request | str,
        *,
        wish: str | None,
        own_url: str,
        port: int,
        log: Callable[[str], None],
        publish: Callable[[GrantedRoute], None],
        no_route: Callable[[], Awaitable[None]],
        times: RouteTimes | None = None,
    ) -> None:
        self._request = request
        self._wish = wish
        self._own_url = own_url
        self._port = port
        self._log = log
        self._publish = publish
        self._no_route = no_route
        self._times = times or RouteTimes()

    async def run(self) -> None:
        """Ask, wait, and publish what was granted; returns when nothing more can come. Never raises."""
        if isinstance(self._request, str):
            await self._without(self._request)
            return
        try:
            await self._obtain(self._request)
        except NoGatewayError as error:
            await self._without(str(error))
        except ControlPlaneError as error:
            self._log(f"WARNING: {error} {self._goes_on}")
            await self._no_route()
        except Exception as error:  # noqa: BLE001 - the SDK raises anything; serving must go on
            self._log(
                f"WARNING: {self._named} could not be asked for: {type(error).__name__}: {error}. "
                f"{self._goes_on}"
            )
            await self._no_route()

    @property
    def _named(self) -> str:
        return f'the route "{self._wish}"' if self._wish else "a route"

    @property
    def _goes_on(self) -> str:
        return f"The instance is reached at {self._own_url}."

    async def _without(self, reason: str) -> None:
        if self._wish:
            self._log(
                f'WARNING: "AI Gateway Route" (General/gateway_route) = {self._wish!r} has no effect: '
                f"{reason} {self._goes_on}"
            )
        await self._no_route()

    async def _obtain(self, request: Request) -> None:
        await self._when_there(request.check)
        self._log(f"Asking the AI Application Gateway for {self._named}.")
        await self._when_there(lambda: request.ask(self._port))
        granted = await self._wait(request)
        self._log(f"The AI Application Gateway granted {self._named}: {granted.url}")
        self._publish(granted)

    async def _when_there(self, function: Callable[[], T]) -> T:
        """Call until the server is there."""
        while True:
            try:
                return await in_background(function)
            except ServerAwayError:
                await asyncio.sleep(self._times.late_every)

    async def _wait(self, request: Request) -> GrantedRoute:
        times = self._times
        began = time.monotonic()
        tell_at = times.tell_every
        while True:
            try:
                granted = await in_background(request.look)
            except ServerAwayError:
                granted = None
            if granted is not None:
                return granted
            waited = time.monotonic() - began
            if waited >= times.patience:
                break
            if waited >= tell_at:
                tell_at += times.tell_every
                self._log(
                    f"Waiting for the AI Application Gateway to grant {self._named} "
                    f"({waited:.0f} s of {times.patience:g} s)."
                )
            await asyncio.sleep(min(times.look_every, times.patience - waited))
        self._log(
            f"WARNING: the AI Application Gateway did not grant {self._named} within {times.patience:g} s: "
            "its router may not run, or may not reach this worker; ask its administrator. "
            f"{self._goes_on} A route that is granted later is still taken."
        )
        await self._no_route()
        return await self._wait_on(request)

    async def _wait_on(self, request: Request) -> GrantedRoute:
        """Look now and then, for as long as the instance runs."""
        while True:
            await asyncio.sleep(self._times.late_every)
            granted = await self._when_there(request.look)
            if granted is not None:
                return granted
