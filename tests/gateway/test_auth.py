"""Who may use an instance, by the keys of its configuration and of a file that changes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigurationError
from common.gateway.auth import ApiKeyAuthenticator, OpenAuthenticator
from common.gateway.key_file import add_key, create_key, list_keys, revoke_key
from common.gateway.keys import (
    KeyEntry,
    KeyLimits,
    Role,
    entries_from_text,
    entry_from_json,
    entry_to_json,
    hash_key,
    make_entry,
)

LIMITS = st.none() | st.integers(1, 10**9)
ENTRIES = st.builds(
    KeyEntry,
    id=st.text("0123456789abcdef", min_size=8, max_size=8),
    name=st.text(min_size=1),
    role=st.sampled_from(Role),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    created=st.integers(0, 2**40),
    models=st.none() | st.frozensets(st.text()),
    limits=st.builds(KeyLimits, LIMITS, LIMITS, LIMITS),
    priority=st.integers(-100, 100),
    expires=st.none() | st.integers(0, 2**40),
)


class Times:
    """A monotonic clock and the time of day, which go on together."""

    def __init__(self) -> None:
        self.now = 50.0
        self.day = 1_800_000_000.0

    def go(self, seconds: float) -> None:
        self.now += seconds
        self.day += seconds

    def guard(self, file: Path | None = None, *entries: KeyEntry) -> ApiKeyAuthenticator:
        self.lines: list[str] = []
        return ApiKeyAuthenticator(
            "own",
            file,
            entries,
            log=self.lines.append,
            clock=lambda: self.now,
            wall_clock=lambda: self.day,
        )


@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: KeyEntry) -> None:
    text = json.dumps(entry_to_json(entry))
    assert entry_from_json(json.loads(text)) == entry
    assert entries_from_text(f" {text}\n") == (entry,)


@pytest.mark.parametrize("separator", ["\n", " ", ",\n", ""])
def test_entries_of_a_task_are_pasted_one_after_the_other(separator: str) -> None:
    made = [make_entry(name)[0] for name in ("a", "b", "c")]
    text = separator.join(json.dumps(entry_to_json(entry), indent=1) for entry in made)
    assert list(entries_from_text(text)) == made
    assert list(entries_from_text(json.dumps([entry_to_json(entry) for entry in made]))) == made
    assert entries_from_text("\n ") == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sha256": "cdk-secret"}, "SHA-256"),
        ({"role": "root"}, "root"),
        ({"models": "m"}, "models"),
        ({"models": [1]}, "models"),
        ({"concurrent": 0}, "concurrent"),
        ({"requests_per_minute": "many"}, "requests_per_minute"),
        ({"expires": True}, "expires"),
    ],
)
def test_a_wrong_entry_is_refused_with_what_is_wrong(change: dict[str, object], word: str) -> None:
    item = entry_to_json(make_entry("alice")[0]) | change
    with pytest.raises(ValueError, match=word) as caught:
        entries_from_text(json.dumps(item))
    assert "cdk-secret" not in str(caught.value)


def test_a_key_in_place_of_an_entry_is_refused_without_repeating_it() -> None:
    _, key = make_entry("alice")
    with pytest.raises(ValueError, match="entry 1 is no JSON") as caught:
        entries_from_text(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "instance", "gateway", "anonymous"])
def test_names_that_would_mislead_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        make_entry(name)


def test_a_file_of_the_older_version_is_read_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old = {
        "id": "12345678",
        "name": "old",
        "role": "admin",
        "sha256": hash_key("secret"),
        "created": 1700000000,
    }
    file.write_text(json.dumps({"version": 1, "keys": [old]}))
    entry, _ = make_entry("new", models=["m"])
    add_key(file, entry)
    assert [(e.name, e.models) for e in list_keys(file)] == [("old", None), ("new", {"m"})]
    identity = Times().guard(file).known("secret")
    assert identity is not None
    assert (identity.name, identity.role, identity.limits) == ("old", Role.ADMIN, None)


def test_two_keys_of_one_name_in_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    items = [entry_to_json(make_entry("twin")[0]) for _ in range(2)]
    file.write_text(json.dumps({"version": 2, "keys": items}))
    with pytest.raises(ConfigurationError, match="'twin' is there 2 times"):
        list_keys(file)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        create_key(tmp_path / "file" / "keys.json", "alice")


def test_an_identity_has_what_its_entry_says() -> None:
    limits = KeyLimits(requests_per_minute=3)
    entry, key = make_entry("ci", models=["m"], limits=limits, priority=7)
    plain, other = make_entry("plain")
    guard = Times().guard(None, entry, plain)
    identity = guard.known(key)
    assert identity is not None
    assert (identity.models, identity.limits, identity.priority) == ({"m"}, limits, 7)
    free = guard.known(other)
    assert free is not None
    assert (free.models, free.limits) == (None, None)


def test_a_key_works_until_its_end_and_is_then_told_from_a_wrong_one() -> None:
    times = Times()
    entry, key = make_entry("ci", expires=int(times.day) + 60)
    guard = times.guard(None, entry)
    times.go(59)
    assert guard.known(key) is not None
    times.go(1)
    assert guard.known(key) is None
    refusal = guard.refuse(key)
    assert (refusal.http_status, refusal.code) == (401, "expired_api_key")
    assert key not in str(refusal)
    assert guard.refuse(key + "x").code == "invalid_api_key"
    assert guard.refuse(None).code == "missing_api_key"


def test_changes_of_the_file_are_in_force_within_a_second(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    times = Times()
    guard = times.guard(file)
    _, key = create_key(file, "alice")
    times.go(1)
    assert guard.known(key) is not None
    [entry] = list_keys(file)
    revoke_key(file, "alice")
    add_key(file, replace(entry, role=Role.METRICS))
    times.go(1)
    identity = guard.known(key)
    assert identity is not None
    assert identity.role is Role.METRICS
    os.unlink(file)
    times.go(1)
    assert guard.known(key) is None
    assert guard.known("own") is not None


def test_a_key_that_is_shown_all_the_time_is_revoked_within_a_second(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    times = Times()
    _, key = create_key(file, "alice")
    guard = times.guard(file)
    assert guard.known(key) is not None
    revoke_key(file, "alice")
    for _ in range(11):
        times.go(0.1)
        found = guard.known(key)
    assert found is None


def test_a_key_that_was_just_shown_still_expires() -> None:
    times = Times()
    entry, key = make_entry("ci", expires=int(times.day) + 1)
    guard = times.guard(None, entry)
    times.go(0.9)
    assert guard.known("own") is not None
    assert guard.known(key) is not None
    times.go(0.1)
    assert guard.known(key) is None
    assert guard.refuse(key).code == "expired_api_key"


def test_a_broken_file_leaves_the_keys_in_force_and_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, key = create_key(file, "alice")
    times = Times()
    guard = times.guard(file)
    file.write_text("{")
    for _ in range(5):
        times.go(1)
        assert guard.known(key) is not None
    [line] = times.lines
    assert str(file) in line


def test_wrong_keys_write_nothing_to_the_log(tmp_path: Path) -> None:
    times = Times()
    guard = times.guard(tmp_path / "keys.json")
    for number in range(1000):
        assert guard.known(f"cdk-{number}") is None
        times.go(0.1)
    assert times.lines == []


def test_no_entry_takes_the_place_of_the_own_key() -> None:
    entry = replace(make_entry("thief")[0], sha256=hash_key("own"))
    identity = Times().guard(None, entry).known("own")
    assert identity is not None
    assert (identity.name, identity.role) == ("instance", Role.ADMIN)


async def test_an_open_instance_knows_everybody_under_one_name() -> None:
    for secret in (None, "", "anything"):
        identity = OpenAuthenticator("gateway").known(secret)
        assert identity is not None
        assert (identity.name, identity.role) == ("gateway", Role.USE)
        assert await OpenAuthenticator("gateway").identify(secret) == identity
