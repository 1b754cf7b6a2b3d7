"""The key file: further API keys of an instance, hashed, with mode 600.

A key is 32 random bytes, so a plain SHA-256 protects it at rest: there is nothing to guess, and a
slow hash would only cost time at each request. Keys are shown once, when they are created.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from common.errors import ConfigurationError, Problem

FILE_VERSION = 1
KEY_PREFIX = "cdk-"
"""Marks our keys, so that a leaked one is recognised in texts."""


class Role(str, enum.Enum):
    """What a key may do; `ADMIN` includes `USE`."""

    USE = "use"
    ADMIN = "admin"


@dataclass(frozen=True)
class KeyEntry:
    """One key as the file holds it.

    Attributes:
        id: Short public identifier.
        name: The user's name for it, unique in the file.
        role: What it may do.
        sha256: Hex digest of the key.
        created: Unix time.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created: int


def generate_key() -> str:
    """Return a new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return the hex digest under which a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create_key(path: Path, name: str, role: Role = Role.USE) -> tuple[KeyEntry, str]:
    """Add a key to the file, which is created when missing.

    Returns:
        The entry, and the key itself, which cannot be had again.

    Raises:
        ConfigurationError: The name is taken or empty, or the file cannot be read.
    """
    if not name.strip():
        raise ConfigurationError([Problem("a key needs a name")])
    with _locked(path):
        entries = list_keys(path)
        if any(entry.name == name for entry in entries):
            raise ConfigurationError([Problem(f"{path} already has a key named {name!r}")])
        key = generate_key()
        entry = KeyEntry(secrets.token_hex(4), name, role, hash_key(key), int(time.time()))
        _write(path, [*entries, entry])
    return entry, key


def list_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Return the file's keys in order of creation; a missing file has none.

    Raises:
        ConfigurationError: The file is not a key file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            [Problem(f"the key file {path} cannot be read: {error}")]
        ) from error
    try:
        content = json.loads(text)
        if content["version"] != FILE_VERSION:
            raise ValueError(f"version {content['version']!r}, expected {FILE_VERSION}")
        return tuple(_entry(item) for item in content["keys"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not a key file of this program: {error}"
        raise ConfigurationError([Problem(message)]) from error


def revoke_key(path: Path, name_or_id: str) -> KeyEntry:
    """Remove a key from the file and return its entry.

    Raises:
        ConfigurationError: There is no such key, or the file cannot be read.
    """
    with _locked(path):
        entries = list_keys(path)
        for entry in entries:
            if name_or_id in (entry.name, entry.id):
                _write(path, [other for other in entries if other is not entry])
                return entry
        known = ", ".join(repr(entry.name) for entry in entries) or "none"
        raise ConfigurationError(
            [Problem(f"{path} has no key named {name_or_id!r}; it has: {known}")]
        )


def _entry(item: dict[str, Any]) -> KeyEntry:
    return KeyEntry(
        id=str(item["id"]),
        name=str(item["name"]),
        role=Role(item["role"]),
        sha256=str(item["sha256"]),
        created=int(item["created"]),
    )


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    content = {"version": FILE_VERSION, "keys": [asdict(entry) for entry in entries]}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"), timeout=10, mode=0o600)
