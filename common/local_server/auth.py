"""Who calls: key and secret, tokens, users, and which projects each may read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass

import jwt

from common.local_server.credentials import Credentials, new_key_pair
from common.local_server.store import Store
from common.local_server.wire import CallError, JsonDict, iso_time, new_id

USERS = "user"
KEYS = "key"
READERS = "readers"

#: 30 days, as the real server; the agent logs in again for each call below 12 hours.
TOKEN_LIFE_S = 30 * 24 * 3600

_OWNER_NAME = "local"


@dataclass(frozen=True)
class User:
    """A user of the server; the owner reads everything."""

    id: str
    name: str
    is_owner: bool


@dataclass(frozen=True)
class FeatureSet:
    """What the token tells the SDK of the server."""

    name: str
    server_version: str


BASIC = FeatureSet("basic", "2.3.0")
ADVANCED = FeatureSet("advanced", "3.27.0")


class Authenticator:
    """Users, their keys and tokens, kept in the store (secrets hashed)."""

    def __init__(self, store: Store, credentials: Credentials, features: FeatureSet) -> None:
        self._store = store
        self._credentials = credentials
        self._features = features

    def ensure_owner(self) -> None:
        """Make the owner known to the store, with the keys of the credentials file."""
        owner = self._credentials.owner
        if self._store.get(USERS, owner) is None:
            self._put_user(owner, _OWNER_NAME, is_owner=True)
        self._put_key(self._credentials.access_key, self._credentials.secret_key, owner)

    def add_user(self, name: str) -> JsonDict:
        """Create a user with credentials of their own.

        Returns:
            ``id``, ``name``, ``access_key`` and ``secret_key``; the secret is not kept in clear.

        Raises:
            CallError: The name is empty or taken.
        """
        if not name.strip():
            raise CallError(12, "Validation error (user name can not be empty)")
        if self.find_user(name) is not None:
            raise CallError(12, f"Validation error (user {name!r} exists already)")
        user_id = new_id()
        access_key, secret_key = new_key_pair()
        self._put_user(user_id, name, is_owner=False)
        self._put_key(access_key, secret_key, user_id)
        return {"id": user_id, "name": name, "access_key": access_key, "secret_key": secret_key}

    def find_user(self, name: str) -> User | None:
        """A user by name."""
        for user in self.users():
            if user.name == name:
                return user
        return None

    def users(self) -> list[User]:
        """Every user, the owner first."""
        return [_user(document) for document in self._store.all(USERS)]

    def authenticate(self, header: str | None) -> User:
        """Read the ``Authorization`` header.

        Raises:
            CallError: 401/20 without one, 401/22 for wrong keys, 401/30 for a bad token.
        """
        scheme, _, value = (header or "").partition(" ")
        if scheme.lower() == "bearer" and value:
            return self._user_of(self.decode(value.strip()))
        if scheme.lower() == "basic" and value:
            return self._user_of_keys(value.strip())
        raise CallError(20, "Unauthorized (missing credentials)", status=401)

    def token(self, user: User, life_s: int | None = None) -> str:
        """A login token for a user."""
        now = int(time.time())
        payload = {
            "iat": now,
            "exp": now + (life_s or TOKEN_LIFE_S),
            "auth_type": "Bearer",
            "env": "",
            "api_version": "2.34",
            "server_version": self._features.server_version,
            "feature_set": self._features.name,
            "identity": {
                "user": user.id,
                "user_name": user.name,
                "company": self._credentials.company,
                "role": "admin" if user.is_owner else "user",
            },
        }
        return jwt.encode(payload, self._credentials.token_secret, algorithm="HS256")

    def decode(self, token: str) -> JsonDict:
        """Check a token's signature and time and read it.

        Raises:
            CallError: 401/30.
        """
        try:
            payload: JsonDict = jwt.decode(
                token, self._credentials.token_secret, algorithms=["HS256"]
            )
        except jwt.ExpiredSignatureError as error:
            raise CallError(30, "Unauthorized (token expired)", status=401) from error
        except jwt.InvalidTokenError as error:
            raise CallError(30, "Unauthorized (invalid token)", status=401) from error
        return payload

    def _user_of(self, payload: JsonDict) -> User:
        document = self._store.get(USERS, str(payload.get("identity", {}).get("user")))
        if document is None:
            raise CallError(30, "Unauthorized (the token's user is gone)", status=401)
        return _user(document)

    def _user_of_keys(self, encoded: str) -> User:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise CallError(22, "Unauthorized (bad basic credentials)", status=401) from error
        access_key, _, secret_key = text.partition(":")
        key = self._store.get(KEYS, access_key)
        given = _hashed(secret_key)
        if key is None or not hmac.compare_digest(given, str(key["secret_hash"])):
            raise CallError(22, "Unauthorized (invalid key or secret)", status=401)
        document = self._store.get(USERS, key["user"])
        if document is None:
            raise CallError(22, "Unauthorized (the key's user is gone)", status=401)
        return _user(document)

    def _put_user(self, user_id: str, name: str, *, is_owner: bool) -> None:
        self._store.put(
            USERS, {"id": user_id, "name": name, "is_owner": is_owner, "created": iso_time()}
        )

    def _put_key(self, access_key: str, secret_key: str, user_id: str) -> None:
        self._store.put(
            KEYS, {"id": access_key, "user": user_id, "secret_hash": _hashed(secret_key)}
        )


def set_readers(store: Store, project: str, user_ids: list[str] | None) -> None:
    """Say who, beside the owner, may read a project and those below it; None lifts the limit."""
    if user_ids is None:
        store.delete(READERS, project)
    else:
        store.put(READERS, {"id": project, "users": user_ids})


def can_read(store: Store, user: User, project_id: str | None) -> bool:
    """Tell whether a user may read a project and what belongs to it.

    The list of the project counts, else that of the nearest project above it that has one, else
    everybody may.
    """
    if user.is_owner or project_id is None:
        return True
    readers = store.get(READERS, project_id)
    project = store.get("project", project_id)
    while readers is None and project is not None and project.get("parent"):
        readers = store.get(READERS, project["parent"])
        project = store.get("project", project["parent"])
    return readers is None or user.id in readers["users"]


def _user(document: JsonDict) -> User:
    return User(document["id"], document["name"], bool(document["is_owner"]))


def _hashed(secret: str) -> str:
    # The secrets are random with 288 bits: a plain hash can not be searched.
    return hashlib.sha256(secret.encode()).hexdigest()
