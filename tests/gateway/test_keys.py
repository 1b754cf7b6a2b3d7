"""The key file and sessions."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from common.gateway.auth import MAX_SESSIONS, SESSION_S, ApiKeyAuthenticator, Sessions
from common.gateway.key_file import create_key, list_keys, revoke_key
from common.gateway.keys import Role, generate_key


def test_key_file_holds_hashes_with_mode_600(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.json"
    assert list_keys(file) == ()
    entry, key = create_key(file, "alice", Role.ADMIN)
    _, other = create_key(file, "bob")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert key not in text
    assert other not in text
    assert [(e.name, e.role) for e in list_keys(file)] == [
        ("alice", Role.ADMIN),
        ("bob", Role.USE),
    ]
    assert revoke_key(file, entry.id).name == "alice"
    assert [e.name for e in list_keys(file)] == ["bob"]
    assert {p.name for p in file.parent.iterdir()} <= {"keys.json", "keys.json.lock"}


def test_key_file_refuses_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    create_key(file, "alice")
    with pytest.raises(ConfigurationError, match="alice"):
        create_key(file, "alice")
    with pytest.raises(ConfigurationError, match="needs a name"):
        create_key(file, " ")
    with pytest.raises(ConfigurationError, match=r"no key named 'carol'.*'alice'"):
        revoke_key(file, "carol")
    for content in ("{", "[]", '{"version": 3, "keys": []}', '{"version": 1, "keys": [{}]}'):
        file.write_text(content)
        with pytest.raises(ConfigurationError, match="not a key file"):
            list_keys(file)
        with pytest.raises(ConfigurationError, match="not a key file"):
            ApiKeyAuthenticator("x", file)


def test_key_file_keeps_every_key_of_concurrent_writers(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: create_key(file, f"key {i}"), range(24)))
    assert len(list_keys(file)) == 24


async def test_authenticator_knows_the_keys_by_name(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, key = create_key(file, "alice")
    guard = ApiKeyAuthenticator("own", file, api_key_role=Role.USE)
    alice, own = await guard.identify(key), await guard.identify("own")
    assert alice is not None
    assert (alice.name, alice.role) == ("alice", Role.USE)
    assert own is not None
    assert (own.name, own.role) == ("instance", Role.USE)
    for wrong in (None, "", "ow", "own ", key[:-1], "\udcff"):
        assert await guard.identify(wrong) is None


def test_generated_keys_differ() -> None:
    assert len({generate_key() for _ in range(100)}) == 100


def test_sessions_end_and_are_bounded() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.open("key")
    assert sessions.secret(first) == "key"
    for _ in range(MAX_SESSIONS):
        last = sessions.open("other")
    assert sessions.secret(first) is None
    assert sessions.secret(last) == "other"
    now[0] = SESSION_S
    assert sessions.secret(last) is None
    assert sessions.secret("guess") is None
