"""The routes that the gateway answers itself. None of them counts as activity of the instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from common.errors import RequestError
from common.gateway.auth import (
    Authenticator,
    Identity,
    refuse_role,
    refuse_use,
    secret_from_headers,
)
from common.gateway.keys import Role
from common.gateway.models import AdminOperations, GatewaySettings, InstanceView, ServedModel
from common.gateway.page.routes import MAX_FORM_BYTES, PageRequest, PageRoutes
from common.gateway.page.sign_in import SignIn
from common.gateway.proxy import ModelProxy
from common.gateway.routing import Own, RouteTable
from common.telemetry.names import CONTENT_TYPE
from common.telemetry.recorder import Recorder

OPERATIONS = ("load", "sleep", "unload")


class OwnRoutes:
    """Health, readiness, model list, metrics, operations and the page of one instance."""

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        routes: RouteTable,
        proxy: ModelProxy,
        authenticator: Authenticator,
        recorder: Recorder,
        admin: AdminOperations | None,
        view: InstanceView | None = None,
    ) -> None:
        self._settings = settings
        self._models = {model.name: model for model in models}
        self._parents = {adapter: model for model in models for adapter in model.adapters}
        self._routes = routes
        self._proxy = proxy
        self._authenticator = authenticator
        self._recorder = recorder
        self._admin = admin
        self._view = view
        self.is_draining = False
        self._sign_in = SignIn(settings.task_id, lambda: settings.public_url)
        self._page = PageRoutes(
            settings,
            models,
            authenticator,
            recorder,
            view,
            self._sign_in,
            in_flight=proxy.in_flight_of,
            is_draining=lambda: self.is_draining,
            has_operations=admin is not None,
        )

    async def identify(self, request: web.BaseRequest) -> Identity:
        """Return who asks, by header or by the page's cookie.

        Raises:
            RequestError: 401; 403 for a session that is used from elsewhere than the page.
            CapacityError: It cannot be decided now.
        """
        secret = self._secret(request)
        identity = await self._authenticator.identify(secret)
        if identity is None:
            raise self._authenticator.refuse(secret)
        return identity

    async def answer(self, request: web.BaseRequest, own: Own) -> web.Response:
        """Answer one of the own routes.

        Raises:
            DeployError: What the client gets as an error.
        """
        if own.route == "health":
            return web.json_response({"status": "ok"})
        if own.route == "ready":
            return self._ready()
        if own.route == "page":
            return await self._answer_page(request)
        identity = await self.identify(request)
        if own.route == "metrics":
            return await self._metrics()
        if identity.role is Role.METRICS:
            raise refuse_use(identity)
        if own.route == "models":
            return web.json_response(self._model_list(identity.models))
        if own.route == "model":
            return web.json_response(self._named_entry(own.detail))
        return await self._operate(identity, own.detail)

    def _ready(self) -> web.Response:
        is_ready = not self.is_draining and any(
            model.upstream.status == "ready" for model in self._models.values()
        )
        if is_ready:
            return web.json_response({"status": "ready"})
        status = "draining" if self.is_draining else "not ready"
        return web.json_response({"status": status}, status=503, headers={"Retry-After": "5"})

    def _model_list(self, names: frozenset[str] | None) -> dict[str, Any]:
        """The models with their adapters; those named only, as a key may use some of them."""
        data = [
            entry
            for model in self._models.values()
            if names is None or model.name in names
            for entry in (
                self._model_entry(model),
                *(_adapter_entry(name, self._model_entry(model)) for name in model.adapters),
            )
        ]
        return {"object": "list", "data": data}

    def _named_entry(self, name: str) -> dict[str, Any]:
        """The list's entry of one model or adapter.

        Raises:
            RequestError: 404.
        """
        parent = self._parents.get(name)
        if parent is not None:
            return _adapter_entry(name, self._model_entry(parent))
        return self._model_entry(self._find(name))

    def _model_entry(self, model: ServedModel) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": model.owned_by,
            "status": model.upstream.status,
        }
        if model.upstream.failure:
            entry["failure"] = model.upstream.failure
        return entry

    def _find(self, name: str) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise self._routes.unknown_model(name)
        return model

    async def _metrics(self) -> web.Response:
        if self._view is not None:
            body, content_type = await self._view.metrics()
            return web.Response(body=body, headers={"Content-Type": content_type})
        # Imported at the first scrape: an instance that nobody scrapes does not pay for it.
        from common.telemetry.prometheus import render_metrics

        statuses = {name: model.upstream.status for name, model in self._models.items()}
        body = render_metrics(self._recorder.snapshot(), statuses, {}, {})
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _operate(self, identity: Identity, detail: str) -> web.Response:
        if identity.role is not Role.ADMIN:
            raise refuse_role(identity)
        if not detail:
            entries = [self._admin_entry(model) for model in self._models.values()]
            return web.json_response({"object": "list", "data": entries})
        name, _, operation = detail.rpartition("/")
        if operation not in OPERATIONS or not name:
            raise RequestError(
                f"/admin/models/{detail} is no operation; "
                f"POST /admin/models/<name>/{{{'|'.join(OPERATIONS)}}}.",
                status=404,
                code="not_found",
            )
        parent = self._parents.get(name)
        if parent is not None:
            raise RequestError(
                f"{name!r} is an adapter of the model {parent.name!r}: {operation} that model.",
                status=409,
                code="not_a_model",
            )
        model = self._find(name)
        if self._admin is None:
            raise RequestError(
                "This instance cannot load, put to sleep or unload its models.",
                status=501,
                error_type="server_error",
                code="not_available",
            )
        await getattr(self._admin, operation)(name)
        return web.json_response(self._admin_entry(model))

    def _admin_entry(self, model: ServedModel) -> dict[str, Any]:
        return self._model_entry(model) | {
            "in_flight": self._proxy.in_flight_of(model.name),
            "max_concurrent_requests": model.max_concurrent_requests,
        }

    async def _answer_page(self, request: web.BaseRequest) -> web.Response:
        body = b""
        if request.method == "POST":
            while len(body) < MAX_FORM_BYTES and (piece := await request.content.readany()):
                body += piece
        asked = PageRequest(
            request.method,
            request.rel_url.raw_query_string,
            request.headers,
            request.cookies,
            body,
            is_tls=self._is_tls(request),
        )
        secret = None if request.method == "POST" else self._secret(request)
        answer = await self._page.answer(asked, secret)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    def _secret(self, request: web.BaseRequest) -> str | None:
        """The key of the headers, or the one that the page's session stands for.

        Raises:
            RequestError: 403; a session that is used from elsewhere than the page.
        """
        secret = secret_from_headers(request.headers)
        if secret is None:
            secret = self._sign_in.secret(request.method, request.headers, request.cookies)
        return secret

    def _is_tls(self, request: web.BaseRequest) -> bool:
        """Whether the browser came by HTTPS, which may end in front of the instance."""
        forwarded = request.headers.get("X-Forwarded-Proto", "").lower()
        public = (self._settings.public_url or "").lower()
        return request.secure or forwarded == "https" or public.startswith("https:")


def _adapter_entry(name: str, parent: dict[str, Any]) -> dict[str, Any]:
    """An adapter in the model list: as its model, whose state it shares."""
    return parent | {"id": name, "parent": parent["id"]}
