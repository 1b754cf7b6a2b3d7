"""The `auth`, `users`, `routers` and `server` services: who one is and what the server offers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from common.local_server.auth import User
from common.local_server.call import Call, Handler
from common.local_server.envelope import API_VERSION, unknown_endpoint
from common.local_server.query import select
from common.local_server.wire import CallError, JsonDict

_COMPANY_NAME: Final = "clearml"


def login(call: Call) -> JsonDict:
    """Give a token to whoever brought good credentials; `expiration_sec` shortens its life."""
    wanted = call.data.get("expiration_sec")
    try:
        life_s = int(wanted) if wanted else None
    except (TypeError, ValueError) as error:
        raise CallError(12, f"Validation error (expiration_sec {wanted!r})") from error
    return {"token": call.auth.token(call.user, life_s)}


def validate_token(call: Call) -> JsonDict:
    """Tell whether a token is good, as a stock file server asks."""
    try:
        payload = call.auth.decode(call.text("token"))
    except CallError as error:
        return {"valid": False, "msg": str(error)}
    return {"valid": True, "payload": payload}


def get_current_user(call: Call) -> JsonDict:
    """The caller."""
    return {"user": _shown(call, call.user), "getting_started": {}}


def get_all_users(call: Call) -> JsonDict:
    """All users, by filters."""
    users = [_shown(call, user) for user in call.auth.users()]
    return {"users": select(users, call.data, ("id", "name"))}


def _shown(call: Call, user: User) -> JsonDict:
    return {
        "id": user.id,
        "name": user.name,
        "role": "admin" if user.is_owner else "user",
        "company": {"id": call.settings.company, "name": _COMPANY_NAME},
    }


def get_vaults(call: Call) -> JsonDict:
    """Configuration vaults: there are none. Not known to the basic feature set."""
    _need_advanced(call, "users.get_vaults")
    return {"vaults": []}


def get_routes(call: Call) -> JsonDict:
    """Static routes, by name. Not known to the basic feature set."""
    _need_advanced(call, "routers.get_routes")
    routes = [
        {
            "id": name,
            "name": name,
            "enabled": True,
            "status": "inactive",
            "type": "path",
            "load_balancer": {"enabled": True},
        }
        for name in call.settings.routes
    ]
    return {"routes": select(routes, call.data, ("id", "name"))}


def _need_advanced(call: Call, endpoint: str) -> None:
    if not call.settings.is_advanced:
        raise unknown_endpoint(endpoint)


def server_info(call: Call) -> JsonDict:
    """Versions, for a person who looks."""
    return {
        "version": "clearml-deploy local server",
        "build": "",
        "commit": "",
        "api_version": API_VERSION,
    }


AUTH: Final[Mapping[str, Handler]] = MappingProxyType(
    {"login": login, "validate_token": validate_token}
)
USERS: Final[Mapping[str, Handler]] = MappingProxyType(
    {"get_current_user": get_current_user, "get_all": get_all_users, "get_vaults": get_vaults}
)
ROUTERS: Final[Mapping[str, Handler]] = MappingProxyType({"get_routes": get_routes})
SERVER: Final[Mapping[str, Handler]] = MappingProxyType({"info": server_info})
