"""API keys as they are kept: hashed, each with a name, a role, limits and an end.

A key is 32 random bytes, so a plain SHA-256 protects it at rest: there is nothing to guess, and a
slow hash would only cost time at each request. Keys are shown once, when they are created.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigurationError, Problem

KEY_PREFIX = "cdk-"
"""Marks our keys, so that a leaked one is recognised in texts."""

RESERVED_NAMES = frozenset({"instance", "anonymous", "gateway"})
"""Names under which the metrics count who comes without a key of the user's making."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Role(str, enum.Enum):
    """What a key may do; `ADMIN` includes the others, and `USE` includes reading the metrics."""

    USE = "use"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True)
class KeyLimits:
    """How much a key may use of one instance; None: no limit.

    Attributes:
        requests_per_minute: Requests that may begin within any 60 seconds.
        tokens_per_minute: Tokens, prompts and answers, of requests that ended within any 60
            seconds; the request that goes over it is still answered.
        concurrent: Requests at the same time.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any limit."""
        return self != KeyLimits()


@dataclass(frozen=True)
class KeyEntry:
    """One key as it is kept.

    Attributes:
        id: Short public identifier.
        name: The user's name for it, unique in its file.
        role: What it may do.
        sha256: Hex digest of the key.
        created: Unix time in seconds.
        models: Endpoint names that it may use; None: all. A model's adapters go with it.
        limits: How much it may use.
        priority: Higher goes first where requests wait for a place at a model.
        expires: Unix time in seconds from which on it opens nothing; None: never.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created: int
    models: frozenset[str] | None = None
    limits: KeyLimits = KeyLimits()
    priority: int = 0
    expires: int | None = None


def generate_key() -> str:
    """Return a new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return the hex digest under which a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def make_entry(
    name: str,
    role: Role = Role.USE,
    *,
    models: Iterable[str] | None = None,
    limits: KeyLimits | None = None,
    priority: int = 0,
    expires: int | None = None,
) -> tuple[KeyEntry, str]:
    """Make a key.

    Args:
        name: The user's name for it.
        role: What it may do.
        models: Endpoint names that it may use; None: all.
        limits: How much it may use; None: no limits.
        priority: Higher goes first where requests wait.
        expires: Unix time in seconds; None: never.

    Returns:
        The entry to keep, and the key itself, which cannot be had again.

    Raises:
        ConfigurationError: The name is empty, has control characters or is one of our own.
    """
    if not name.strip() or not name.isprintable():
        raise ConfigurationError([Problem("a key needs a name, of printable characters")])
    if name in RESERVED_NAMES:
        taken = ", ".join(sorted(RESERVED_NAMES))
        raise ConfigurationError([Problem(f"the names {taken} have a meaning of their own")])
    key = generate_key()
    entry = KeyEntry(
        id=secrets.token_hex(4),
        name=name,
        role=role,
        sha256=hash_key(key),
        created=int(time.time()),
        models=None if models is None else frozenset(models),
        limits=limits or KeyLimits(),
        priority=priority,
        expires=expires,
    )
    return entry, key


def entry_to_json(entry: KeyEntry) -> dict[str, Any]:
    """Return an entry as the object that a key file holds; what is not set is left out."""
    item: dict[str, Any] = {
        "id": entry.id,
        "name": entry.name,
        "role": entry.role.value,
        "sha256": entry.sha256,
        "created": entry.created,
    }
    if entry.models is not None:
        item["models"] = sorted(entry.models)
    limits = entry.limits
    optional = {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
        "priority": entry.priority or None,
        "expires": entry.expires,
    }
    return item | {name: value for name, value in optional.items() if value is not None}


def entry_from_json(item: Any) -> KeyEntry:
    """Read one object of a key file.

    Raises:
        ValueError: It is no entry; says which part.
    """
    if not isinstance(item, dict):
        raise ValueError("an entry must be an object")
    try:
        name, sha256 = str(item["name"]), str(item["sha256"])
        role = Role(item["role"])
    except KeyError as error:
        raise ValueError(f"an entry has no {error}") from None
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"the entry {name!r} has no SHA-256 of a key")
    models = item.get("models")
    if models is not None and not (
        isinstance(models, list) and all(isinstance(model, str) for model in models)
    ):
        raise ValueError(f"the models of {name!r} must be a list of endpoint names")
    return KeyEntry(
        id=str(item.get("id", sha256[:8])),
        name=name,
        role=role,
        sha256=sha256,
        created=_number(item, "created") or 0,
        models=None if models is None else frozenset(models),
        limits=KeyLimits(
            _limit(item, "requests_per_minute"),
            _limit(item, "tokens_per_minute"),
            _limit(item, "concurrent"),
        ),
        priority=_number(item, "priority") or 0,
        expires=_number(item, "expires"),
    )


def entries_from_text(text: str) -> tuple[KeyEntry, ...]:
    """Read entries that a person pasted: one JSON object per entry, or a list of them.

    Raises:
        ValueError: The text is something else; says what, without repeating it.
    """
    decoder = json.JSONDecoder()
    items: list[Any] = []
    at = 0
    while text[at:].strip(" \t\r\n,"):
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        try:
            item, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ValueError(f"entry {len(items) + 1} is no JSON: {error}") from None
        items += item if isinstance(item, list) else [item]
    entries = tuple(entry_from_json(item) for item in items)
    check_unique(entries)
    return entries


def check_unique(entries: Sequence[KeyEntry]) -> None:
    """Refuse two keys of one name.

    Raises:
        ValueError: Says which.
    """
    for name, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            raise ValueError(f"the name {name!r} is there {count} times")


def _number(item: dict[str, Any], name: str) -> int | None:
    value = item.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} of {item['name']!r} must be a number")
    return int(value)


def _limit(item: dict[str, Any], name: str) -> int | None:
    value = _number(item, name)
    if value is not None and value < 1:
        raise ValueError(f"{name} of {item['name']!r} must be at least 1")
    return value
