"""Which answer a request target asks for (pure): an own route, a model, or a refusal.

The path picks the engine. What is left of the path after ``/service/<id>`` and the endpoint name
goes to the engine as it came, byte by byte; the decisions are made on its decoded form, so that
percent signs cannot hide a route that must not be reached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from common.errors import ConfigurationError, Problem, RequestError

OwnRoute = Literal["page", "health", "ready", "metrics", "models", "model", "admin"]

# Engine routes outside /v1 that clients need and that change nothing in the engine. All others are
# the operator's: llama.cpp's /slots, /props, /lora-adapters, /models/*; vLLM's /sleep, /wake_up,
# /collective_rpc, /reset_prefix_cache, /server_info, profiling and the like, and its /invocations,
# which would run any of its routes whatever the path says.
NATIVE_ROUTES = frozenset(
    {
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/completion",
        "/infill",
        "/embedding",
        "/rerank",
        "/reranking",
        "/v2/rerank",
        "/score",
        "/classify",
        "/pooling",
    }
)

# Routes below /v1 that are not for clients: vLLM loads adapters there, and llama.cpp reads and ends
# streams there, of any client whose conversation's ID is known.
REFUSED_V1_ROUTES = frozenset({"load_lora_adapter", "unload_lora_adapter", "stream", "streams"})

OWN_ROUTES: dict[str, OwnRoute] = {
    "/": "page",
    "/health": "health",
    "/ready": "ready",
    "/metrics": "metrics",
    "/v1/models": "models",
}


@dataclass(frozen=True)
class Own:
    """The gateway answers itself; `detail` is a model name or the admin path after ``/admin/``."""

    route: OwnRoute
    detail: str = ""
    service_prefix: str = ""


@dataclass(frozen=True)
class ToModel:
    """The engine of the model `name` gets `target` (raw path and query)."""

    name: str
    target: str
    path: str


@dataclass(frozen=True)
class ByModelField:
    """The body's `model` field picks the engine, which gets `target` (raw path and query)."""

    target: str
    path: str


Target = Own | ToModel | ByModelField


class RouteTable:
    """Resolves request targets for a fixed set of endpoint names and of adapters' names.

    Args:
        names: The endpoint names.
        adapters: The names of adapters, each with the endpoint name of its model.

    Raises:
        ConfigurationError: A name occurs twice, or is another name plus ``/v1``, so that a path
            would have two meanings.
    """

    def __init__(self, names: Iterable[str], adapters: Iterable[tuple[str, str]] = ()) -> None:
        pairs = [*((name, name) for name in names), *adapters]
        given = [name for name, _ in pairs]
        self.names = tuple(given)
        self._models = dict(pairs)
        problems = [
            Problem(f"the endpoint name {name!r} is used more than once")
            for name in sorted({n for n in given if given.count(n) > 1})
        ]
        problems += [
            Problem(f"the endpoint name {name!r} clashes with {short!r}: paths would be ambiguous")
            for name in given
            for short in given
            if name == f"{short}/v1" or name.startswith(f"{short}/v1/")
        ]
        if problems:
            raise ConfigurationError(problems)
        self._longest = max((name.count("/") + 1 for name in given), default=0)
        self._outer = ""

    def accept_prefix(self, path: str) -> None:
        """Have paths below `path` lead here as well: a gateway in front may leave its route in them.

        What is served without it comes first, so that a model of the same name stays reachable.

        Args:
            path: As in a URL; empty: none any more.
        """
        self._outer = path.rstrip("/")

    def resolve(
        self, method: str, raw_target: str, allowed: frozenset[str] | None = None
    ) -> Target:
        """Return what a request is for.

        Args:
            method: HTTP method.
            raw_target: Request target as it came: path and query, not decoded.
            allowed: The models that a refusal may name, as the key may use no others; None: all.

        Raises:
            RequestError: 400 for path tricks, 404 for what is not served, 405 for a wrong method.
        """
        try:
            return self._resolve(method, raw_target, allowed)
        except RequestError:
            outer = self._outer
            if not outer or not raw_target.startswith(outer):
                raise
            inner = raw_target[len(outer) :]
            if inner[:1] not in ("", "/", "?"):
                raise
        return self._resolve(method, inner if inner.startswith("/") else f"/{inner}", allowed)

    def _resolve(self, method: str, raw_target: str, allowed: frozenset[str] | None) -> Target:
        path, question, query = raw_target.partition("?")
        tail = question + query
        raw_parts = path.split("/")
        check_path(path)
        if "#" in query:
            raise invalid_path()
        prefix = ""
        if len(raw_parts) > 2 and raw_parts[1] == "service":
            prefix = "/".join(raw_parts[:3])
            raw_parts = ["", *raw_parts[3:]] if len(raw_parts) > 3 else ["", ""]
        decoded = unquote("/".join(raw_parts))
        own = self._own(method, decoded, prefix)
        if own is not None:
            return own
        for name, rest_parts in self._candidates(raw_parts):
            rest = "/" + "/".join(rest_parts)
            rest_decoded = unquote(rest)
            own = _model_list(method, rest_decoded)
            if own is not None:
                return own
            if is_forwarded(rest_decoded):
                check_method(method, rest_decoded)
                return ToModel(self._models[name], rest + tail, rest_decoded)
        if is_forwarded(decoded):
            check_method(method, decoded)
            return ByModelField("/".join(raw_parts) + tail, decoded)
        raise self._not_found(decoded, raw_parts, allowed)

    def unknown_model(self, name: str, allowed: frozenset[str] | None = None) -> RequestError:
        """Return the 404 for a model that is not served, listing those that are.

        Args:
            name: As the client wrote it.
            allowed: The models that may be named, as the key may use no others; None: all.
        """
        return RequestError(
            f"The model {name!r} does not exist here. Served: {self.listed(allowed)}.",
            status=404,
            code="model_not_found",
            param="model",
        )

    def listed(self, allowed: frozenset[str] | None) -> str:
        """Return the served names for a text; of a key's allowed models only, unless None."""
        names = [n for n in self.names if allowed is None or self._models[n] in allowed]
        return ", ".join(names) or "none"

    def _own(self, method: str, path: str, prefix: str) -> Own | None:
        route = OWN_ROUTES.get(path)
        if route is not None:
            check_own_method(method, path, ("GET", "HEAD", "POST") if route == "page" else _READ)
            return Own(route, service_prefix=prefix)
        if path == "/admin/models" or path.startswith("/admin/models/"):
            detail = path.removeprefix("/admin/models").strip("/")
            check_own_method(method, path, ("POST",) if detail else _READ)
            return Own("admin", detail)
        return _model_list(method, path)

    def _candidates(self, raw_parts: list[str]) -> Iterable[tuple[str, list[str]]]:
        """Yield (name, remaining parts) for each served name the path begins with, longest first.

        A slash inside a name may come encoded, so that one raw part can hold several name parts.
        """
        parts = raw_parts[1:]
        for count in range(min(len(parts), self._longest), 0, -1):
            name = unquote("/".join(parts[:count]))
            if name in self._models:
                yield name, parts[count:]

    def _not_found(
        self, path: str, raw_parts: list[str], allowed: frozenset[str] | None
    ) -> RequestError:
        for name, _ in self._candidates(raw_parts):
            return RequestError(
                f"{path} is not served. The model {name!r} answers below /{name}/v1/, "
                f"for instance /{name}/v1/chat/completions.",
                status=404,
                code="not_found",
            )
        head, slash, _ = path.lstrip("/").partition("/v1/")
        if slash:
            return self.unknown_model(head, allowed)
        return RequestError(
            f"{path} is not served. Known: /v1/..., /<model>/v1/..., /health, /ready, /metrics, "
            f"/admin/models; models: {self.listed(allowed)}.",
            status=404,
            code="not_found",
        )


_READ = ("GET", "HEAD")


def check_path(raw_path: str) -> None:
    """Refuse a path that could mean different places to the gateway and to an engine.

    Raises:
        RequestError: 400; dot parts, empty parts, backslashes, control characters, fragments.
    """
    path = unquote(raw_path)
    parts = path.split("/")
    if (
        not raw_path.startswith("/")
        or "#" in raw_path
        or "\\" in path
        or any(part in (".", "..") for part in parts)
        or "" in parts[1:-1]
        or any(ord(character) < 32 or ord(character) == 127 for character in path)
    ):
        raise invalid_path()


def invalid_path() -> RequestError:
    """Return the 400 for a target that is no plain path and query."""
    return RequestError(
        "The request path is not valid: it must begin with a slash and have no empty, '.' or "
        "'..' parts, no backslash, no fragment and no control characters.",
        code="invalid_path",
    )


def is_forwarded(path: str) -> bool:
    """Whether an engine may get this decoded path."""
    if path in NATIVE_ROUTES:
        return True
    parts = path.split("/")
    return (
        len(parts) > 2
        and parts[1] == "v1"
        and parts[2] not in REFUSED_V1_ROUTES
        and parts[2] not in ("", "models")
    )


def check_method(method: str, path: str) -> None:
    """Refuse methods that are no use on a forwarded route.

    Raises:
        RequestError: 405.
    """
    allowed = ("POST",) if path in NATIVE_ROUTES else _FORWARDED_METHODS
    check_own_method(method, path, allowed)


_FORWARDED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def check_own_method(method: str, path: str, allowed: tuple[str, ...]) -> None:
    """Refuse a method that the route does not have.

    Raises:
        RequestError: 405.
    """
    if method not in allowed:
        raise RequestError(
            f"{method} is not possible on {path}; use {' or '.join(allowed)}.",
            status=405,
            code="method_not_allowed",
        )


def _model_list(method: str, path: str) -> Own | None:
    """Answer the model list ourselves: an engine's own would name its file."""
    trimmed = path.rstrip("/")
    if trimmed == "/v1/models":
        check_own_method(method, path, _READ)
        return Own("models")
    if path.startswith("/v1/models/"):
        check_own_method(method, path, _READ)
        return Own("model", path.removeprefix("/v1/models/"))
    return None
