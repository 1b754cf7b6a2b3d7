"""The routes that the gateway answers itself. None of them counts as activity of the instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote

from aiohttp import web

from common.errors import RequestError
from common.gateway import page
from common.gateway.auth import (
    SESSION_COOKIE,
    Authenticator,
    Identity,
    Sessions,
    refuse_role,
    refuse_unknown,
    secret_from_headers,
)
from common.gateway.keys import Role
from common.gateway.models import AdminOperations, GatewaySettings, InstanceView, ServedModel
from common.gateway.proxy import ModelProxy
from common.gateway.routing import Own, RouteTable
from common.telemetry.recorder import Recorder

MAX_FORM_BYTES = 4096
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
        self._sessions = Sessions()
        self.is_draining = False

    async def identify(self, request: web.BaseRequest) -> Identity:
        """Return who asks, by header or by the page's cookie.

        Raises:
            RequestError: 401.
            CapacityError: It cannot be decided now.
        """
        secret = secret_from_headers(request.headers)
        if secret is None:
            secret = self._sessions.secret(request.cookies.get(SESSION_COOKIE))
        identity = await self._authenticator.identify(secret)
        if identity is None:
            raise refuse_unknown(secret)
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
            return await self._page(request, own)
        identity = await self.identify(request)
        if own.route == "models":
            return web.json_response(self._model_list())
        if own.route == "model":
            return web.json_response(self._named_entry(own.detail))
        if own.route == "metrics":
            return await self._metrics()
        return await self._operate(identity, own.detail)

    def _ready(self) -> web.Response:
        is_ready = not self.is_draining and any(
            model.upstream.status == "ready" for model in self._models.values()
        )
        if is_ready:
            return web.json_response({"status": "ready"})
        status = "draining" if self.is_draining else "not ready"
        return web.json_response({"status": status}, status=503, headers={"Retry-After": "5"})

    def _model_list(self) -> dict[str, Any]:
        data = [
            entry
            for model in self._models.values()
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
        from common.telemetry.prometheus import CONTENT_TYPE, PrometheusExporter

        exporter = PrometheusExporter(
            self._recorder.snapshot,
            lambda: {name: model.upstream.status for name, model in self._models.items()},
        )
        return web.Response(body=exporter.render(), headers={"Content-Type": CONTENT_TYPE})

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

    async def _page(self, request: web.BaseRequest, own: Own) -> web.Response:
        if request.method == "POST":
            return await self._login(request, own)
        if self._authenticator.needs_secret:
            try:
                await self.identify(request)
            except RequestError:
                return self._html(page.render_login(self._title, is_wrong=False))
        return self._html(self._status_page(request, own))

    async def _login(self, request: web.BaseRequest, own: Own) -> web.Response:
        """Log in or out; the answer sends the browser back to the page."""
        raw = await request.content.read(MAX_FORM_BYTES)
        form = parse_qs(raw.decode("utf-8", "replace"))
        path = own.service_prefix + "/"
        answer = web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
        if "logout" in form:
            self._sessions.close(request.cookies.get(SESSION_COOKIE))
            answer.del_cookie(SESSION_COOKIE, path=path)
            return answer
        secret = form.get("key", [""])[0].strip()
        if await self._authenticator.identify(secret) is None:
            return self._html(page.render_login(self._title, is_wrong=True), status=401)
        answer.set_cookie(
            SESSION_COOKIE,
            self._sessions.open(secret),
            path=path,
            httponly=True,
            samesite="Strict",
            secure=self._scheme(request) == "https",
        )
        return answer

    def _status_page(self, request: web.BaseRequest, own: Own) -> str:
        host = request.headers.get("Host", "")
        base = self._settings.public_url or f"{self._scheme(request)}://{host}{own.service_prefix}"
        base = base.rstrip("/")
        rows = [
            page.ModelRow(
                model.name,
                model.upstream.status,
                model.upstream.failure,
                f"{base}/{quote(model.name, safe='/')}/v1",
                self._proxy.in_flight_of(model.name),
                model.adapters,
            )
            for model in self._models.values()
        ]
        needs_secret = self._authenticator.needs_secret
        return page.render_status(
            self._title,
            rows,
            base_url=base,
            task_id=self._settings.task_id,
            with_key=needs_secret,
            with_logout=needs_secret and SESSION_COOKIE in request.cookies,
        )

    @property
    def _title(self) -> str:
        return self._settings.instance_name or "Model deployment"

    def _scheme(self, request: web.BaseRequest) -> str:
        """Return what the browser sees: TLS may end in front of the instance."""
        forwarded = request.headers.get("X-Forwarded-Proto", "").lower()
        public = (self._settings.public_url or "").lower()
        is_tls = forwarded == "https" or public.startswith("https:")
        return "https" if is_tls else "http"

    def _html(self, text: str, status: int = 200) -> web.Response:
        headers = {
            "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _adapter_entry(name: str, parent: dict[str, Any]) -> dict[str, Any]:
    """An adapter in the model list: as its model, whose state it shares."""
    return parent | {"id": name, "parent": parent["id"]}
