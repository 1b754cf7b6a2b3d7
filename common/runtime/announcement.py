"""Where an instance is reached and with what, told on the console and in ``Status/*``."""

from __future__ import annotations

import os

from common.clearml.api import ClearMLApi
from common.clearml.external_endpoint import GrantedRoute, RouteRequest
from common.clearml.instance import InstanceTask
from common.clearml.task import OpenTask
from common.runtime.access import is_loopback
from common.runtime.app import AnySettings
from common.runtime.console import Console
from common.runtime.external_route import ExternalRoute, why_no_route
from common.runtime.instance import Instance
from common.runtime.offline_keys import keep_key
from common.runtime.reachability import check_address
from common.runtime.status import key_dashboard


class Announcement:
    """Tells where a started instance is reached: at first, and again when it got a route.

    Args:
        instance: Its gateway is open.
        settings: Its settings.
        report: Gets ``Status/*``.
        console: Gets the addresses.
    """

    def __init__(
        self, instance: Instance, settings: AnySettings, report: InstanceTask, console: Console
    ) -> None:
        assert instance.gateway is not None
        self._instance = instance
        self._gateway = instance.gateway
        self._settings = settings
        self._report = report
        self._say = console.line
        self._shows_key = False

    def tell(self) -> None:
        """Tell it as it is now."""
        access = self._instance.access
        assert access is not None
        key = access.key
        values = {
            "endpoint": self._gateway.base_url,
            "session": self._report.id,
            "console_log": self._report.web_url,
            "token_link": "/settings/workspace-configuration",
        }
        if key is not None and (access.is_generated or self._settings.shows_api_key):
            values["api_key"] = key
            self._shows_key = True
        elif self._shows_key:  # a gateway in front lets clients in now
            values["api_key"] = ""
        if key is not None and access.is_generated and self._report.mode == "offline":
            # Without a server nobody could read it from the task.
            keep_key(self._report.id, key)
        if self._settings.shows_api_key:
            values |= self._key_dashboard(key)
        self._report.set_status(values)
        for model in self._instance.models:
            self._say(f"{model.name}: endpoint {self._gateway.url_for(model.name)}")
        if access.is_generated:
            self._say(f"The key is shown by: clearml-deploy key {self._report.id}")

    def route(self, task: OpenTask) -> ExternalRoute:
        """What has the instance reached through the server's application gateway, where it has one.

        Args:
            task: The instance's task, which the route is asked for.
        """
        general = self._settings.general
        own_url = self._gateway.base_url

        def publish(granted: GrantedRoute) -> None:
            self._instance.publish(granted.url)
            self.tell()

        async def check() -> None:
            if not general.public_url and not is_loopback(general.host):
                await check_address(own_url, self._say)

        wish = general.gateway_route
        is_offline = task.mode == "offline"
        return ExternalRoute(
            why_no_route(general, os.environ, is_offline=is_offline)
            # A session of its own: the outbox uses its one from another thread.
            or RouteRequest(task, ClearMLApi(), wish),
            wish=wish,
            own_url=own_url,
            port=self._gateway.port,
            log=self._say,
            publish=publish,
            no_route=check,
        )

    def _key_dashboard(self, key: str | None) -> dict[str, str]:
        first = self._instance.models[0]
        return key_dashboard(
            first.name,
            self._gateway.url_for(first.name),
            is_embedding=self._settings.is_embedding(first.options),
            key=key,
        )
