"""The routes that the gateway answers itself. None of them counts as activity of the instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from common.errors import RequestError
from common.gateway.auth import (
    Authenticator,
    Identity,
    refuse_role,
    refuse_use,
)
from common.gateway.http.answer import Answer, FieldMap, OwnRequest, json_answer
from common.gateway.http.request import RequestHead, cookies
from common.gateway.keys import Role
from common.gateway.models import (
    AdminOperations,
    GatewaySettings,
    InstanceView,
    ServedModel,
    Upstream,
)
from common.gateway.page.routes import PageRequest, PageRoutes
from common.gateway.page.sign_in import SignIn
from common.gateway.routing import Own, RouteTable
from common.telemetry.names import CONTENT_TYPE
from common.telemetry.recorder import Recorder


class InFlight(Protocol):
    """Requests that are being answered."""

    @property
    def is_draining(self) -> bool:
        """Whether new ones are refused."""

    def in_flight_of(self, name: str) -> int:
        """Requests that hold a place at one model."""


OPERATIONS = ("load", "sleep", "unload")


class OwnRoutes:
    """Health, readiness, model list, metrics, operations and the page of one instance."""

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[ServedModel],
        routes: RouteTable,
        authenticator: Authenticator,
        recorder: Recorder,
        admin: AdminOperations | None,
        view: InstanceView | None = None,
    ) -> None:
        self._settings = settings
        self._models = {model.name: model for model in models}
        self._parents = {adapter: model for model in models for adapter in model.adapters}
        self._routes = routes
        self.proxy: InFlight | None = None
        self._authenticator = authenticator
        self._recorder = recorder
        self._admin = admin
        self._view = view
        self._sign_in = SignIn(settings.task_id, lambda: settings.public_url)
        self._page = PageRoutes(
            settings,
            models,
            authenticator,
            recorder,
            view,
            self._sign_in,
            in_flight=self._in_flight_of,
            is_draining=lambda: self._is_draining,
            has_operations=admin is not None,
        )

    async def identify(self, head: RequestHead) -> Identity:
        """Return who asks, by header or by the page's cookie.

        Raises:
            RequestError: 401; 403 for a session that is used from elsewhere than the page.
            CapacityError: It cannot be decided now.
        """
        secret = self.secret_of(head)
        identity = await self._authenticator.identify(secret)
        if identity is None:
            raise self._authenticator.refuse(secret)
        return identity

    async def answer(self, request: OwnRequest, own: Own) -> Answer:
        """Answer one of the own routes.

        Raises:
            DeployError: What the client gets as an error.
        """
        if own.route == "health":
            return json_answer({"status": "ok"})
        if own.route == "ready":
            return self._ready()
        if own.route == "page":
            return await self._answer_page(request)
        identity = await self.identify(request.head)
        if own.route == "metrics":
            return await self._metrics()
        if identity.role is Role.METRICS:
            raise refuse_use(identity)
        if own.route == "models":
            return json_answer(self._model_list(identity.models))
        if own.route == "model":
            return json_answer(self._named_entry(own.detail, identity.models))
        return await self._operate(identity, own.detail)

    def _ready(self) -> Answer:
        is_ready = not self._is_draining and any(
            _can_take_requests(model.upstream) for model in self._models.values()
        )
        if is_ready:
            return json_answer({"status": "ready"})
        status = "draining" if self._is_draining else "not ready"
        return json_answer({"status": status}, status=503, headers={"Retry-After": "5"})

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

    def _named_entry(self, name: str, allowed: frozenset[str] | None) -> dict[str, Any]:
        """The list's entry of one model or adapter, unless the key may not use it.

        Raises:
            RequestError: 404.
        """
        model = self._parents.get(name) or self._models.get(name)
        if model is None or (allowed is not None and model.name not in allowed):
            raise self._routes.unknown_model(name, allowed)
        entry = self._model_entry(model)
        return entry if name == model.name else _adapter_entry(name, entry)

    def _model_entry(self, model: ServedModel) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": model.owned_by,
            "status": model.upstream.status,
        }
        memory = model.upstream.memory
        if memory is not None:
            entry["tier"] = memory.tier
            if memory.moving_to is not None:
                entry["moving_to"] = memory.moving_to
        if model.upstream.failure:
            entry["failure"] = model.upstream.failure
        return entry

    def _find(self, name: str) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise self._routes.unknown_model(name)
        return model

    async def _metrics(self) -> Answer:
        if self._view is not None:
            body, content_type = await self._view.metrics()
            return Answer(200, body, content_type)
        # Imported at the first scrape: an instance that nobody scrapes does not pay for it.
        from common.telemetry.prometheus import render_metrics

        statuses = {name: model.upstream.status for name, model in self._models.items()}
        return Answer(
            200, render_metrics(self._recorder.snapshot(), statuses, {}, {}), CONTENT_TYPE
        )

    async def _operate(self, identity: Identity, detail: str) -> Answer:
        if identity.role is not Role.ADMIN:
            raise refuse_role(identity)
        if not detail:
            entries = [self._admin_entry(model) for model in self._models.values()]
            return json_answer({"object": "list", "data": entries})
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
        return json_answer(self._admin_entry(model))

    def _admin_entry(self, model: ServedModel) -> dict[str, Any]:
        entry = self._model_entry(model) | {
            "in_flight": self._in_flight_of(model.name),
            "max_concurrent_requests": model.max_concurrent_requests,
        }
        memory = model.upstream.memory
        if memory is not None:
            entry["memory"] = {
                "bytes_by_pool": dict(memory.bytes_by_pool),
                "waiting": memory.waiting,
                "reason": memory.reason,
                "priority": memory.priority,
                "pinned": memory.is_pinned,
            }
        return entry

    async def _answer_page(self, request: OwnRequest) -> Answer:
        asked = PageRequest(
            request.method,
            request.query,
            request.headers,
            request.cookies,
            request.body,
            is_tls=self._is_tls(request),
        )
        secret = None if request.method == "POST" else self.secret_of(request.head)
        answer = await self._page.answer(asked, secret)
        return Answer(answer.status, answer.body, headers=list(answer.headers.items()))

    def secret_of(self, head: RequestHead) -> str | None:
        """Return the key of a request's fields, or the one that the page's session stands for.

        Raises:
            RequestError: 403; a session that is used from elsewhere than the page.
        """
        secret = head.secret
        if secret is None and head.has_cookie:
            method = head.method.decode("latin-1")
            secret = self._sign_in.secret(method, FieldMap(head), cookies(head))
        return secret

    def _is_tls(self, request: OwnRequest) -> bool:
        """Whether the browser came by HTTPS: TLS may end in front of the instance."""
        forwarded = request.headers.get("X-Forwarded-Proto", "").lower()
        public = (self._settings.public_url or "").lower()
        return request.is_tls or forwarded == "https" or public.startswith("https:")

    @property
    def _is_draining(self) -> bool:
        return self.proxy is not None and self.proxy.is_draining

    def _in_flight_of(self, name: str) -> int:
        return self.proxy.in_flight_of(name) if self.proxy is not None else 0


def _can_take_requests(upstream: Upstream) -> bool:
    """Whether a request is answered, at once or after the model was woken.

    A model that is moved by itself takes requests while it is put aside: an instance whose models
    all rest must not lose the traffic that would wake them.
    """
    memory = upstream.memory
    if upstream.status == "ready" or memory is None:
        return upstream.status == "ready"
    return upstream.status in ("sleeping", "offloaded") or (
        upstream.status == "loading" and memory.tier != "disk"
    )


def _adapter_entry(name: str, parent: dict[str, Any]) -> dict[str, Any]:
    """An adapter in the model list: as its model, whose state it shares."""
    return parent | {"id": name, "parent": parent["id"]}
