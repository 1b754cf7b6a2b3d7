"""The key file: further API keys of the instances of a machine, hashed, with mode 600."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from common.errors import ConfigurationError, Problem
from common.gateway.keys import (
    KeyEntry,
    Role,
    check_unique,
    entry_from_json,
    entry_to_json,
    make_entry,
)

KEY_FILE_VARIABLE = "CLEARML_DEPLOY_KEY_FILE"

FILE_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 had no models, limits, priorities and ends."""

LOCK_S = 10.0
"""How long another process may take to write the file."""


def default_key_file(environ: Mapping[str, str]) -> Path:
    """The file that `CLEARML_DEPLOY_KEY_FILE` names, else ``~/.clearml-deploy/keys.json``."""
    named = environ.get(KEY_FILE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".clearml-deploy" / "keys.json"


def create_key(path: Path, name: str, role: Role = Role.USE) -> tuple[KeyEntry, str]:
    """Make a key without limits and add it to the file, as `add_key`.

    Returns:
        The entry, and the key itself, which cannot be had again.

    Raises:
        ConfigurationError: The name is taken or cannot be one, or the file cannot be read.
    """
    entry, key = make_entry(name, role)
    add_key(path, entry)
    return entry, key


def add_key(path: Path, entry: KeyEntry) -> None:
    """Add a key to the file, which is created when missing.

    Raises:
        ConfigurationError: The name is taken, or the file cannot be read or written.
    """
    with _locked(path):
        entries = list_keys(path)
        if any(other.name == entry.name for other in entries):
            raise ConfigurationError([Problem(f"{path} already has a key named {entry.name!r}")])
        _write(path, [*entries, entry])


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
        if content["version"] not in READABLE_VERSIONS:
            raise ValueError(f"version {content['version']!r}, known are {READABLE_VERSIONS}")
        entries = tuple(entry_from_json(item) for item in content["keys"])
        check_unique(entries)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not a key file of this program: {error}"
        raise ConfigurationError([Problem(message)]) from error
    return entries


def revoke_key(path: Path, name_or_id: str) -> KeyEntry:
    """Remove a key from the file and return its entry.

    Raises:
        ConfigurationError: There is no such key, or the file cannot be read or written.
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


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    content = {"version": FILE_VERSION, "keys": [entry_to_json(entry) for entry in entries]}
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_S, mode=0o600):
            yield
    except OSError as error:
        message = f"the key file {path} cannot be written: {error}"
        raise ConfigurationError([Problem(message)]) from error
