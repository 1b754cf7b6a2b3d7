"""``clearml-deploy keys``: what is made, shown and taken back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.cli.main import main
from common.gateway.auth import ApiKeyAuthenticator
from common.gateway.keys import KeyLimits, Role, entries_from_text


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("CLEARML_DEPLOY_KEY_FILE", str(path))
    return path


def keys(*words: str) -> Result:
    return CliRunner().invoke(main, ["keys", *words])


def test_a_key_is_printed_alone_and_works(file: Path) -> None:
    made = keys("create", "ci")
    assert made.exit_code == 0
    key = made.stdout.removesuffix("\n")
    identity = ApiKeyAuthenticator("own", file).known(key)
    assert identity is not None
    assert (identity.name, identity.role) == ("ci", Role.USE)
    assert key not in file.read_text()


def test_everything_that_a_key_may_have_is_kept(file: Path) -> None:
    words = "--model a --model b/c --requests-per-minute 60 --tokens-per-minute 1000 --concurrent 2"
    made = keys("create", "batch", *words.split(), "--priority", "-3", "--expires", "30d")
    identity = ApiKeyAuthenticator("own", file).known(made.stdout.strip())
    assert identity is not None
    assert identity.models == {"a", "b/c"}
    assert identity.limits == KeyLimits(60, 1000, 2)
    assert identity.priority == -3
    [shown] = json.loads(keys("list", "--json").stdout)
    assert shown["expires"] == pytest.approx(time.time() + 30 * 86400, abs=60)


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ([], Role.USE),
        (["--admin"], Role.ADMIN),
        (["--role", "admin"], Role.ADMIN),
        (["--role", "metrics"], Role.METRICS),
        (["--role", "admin", "--admin"], Role.ADMIN),
    ],
)
def test_a_role_is_given_by_name(file: Path, words: list[str], role: Role) -> None:
    made = keys("create", "someone", *words)
    identity = ApiKeyAuthenticator("own", file).known(made.stdout.strip())
    assert identity is not None
    assert identity.role is role


def test_lists_show_no_secret(file: Path) -> None:
    made = keys("create", "ci", "--model", "m", "--concurrent", "2", "--expires", "2999-01-01")
    [entry] = json.loads(file.read_text())["keys"]
    for shown in (keys("list").output, keys("list", "--json").output):
        assert "ci" in shown
        assert made.stdout.strip() not in shown
        assert entry["sha256"] not in shown
    text = keys("list").stdout
    for words in ("models: m", "2 at once", "expires 2999-01-01 00:00 UTC"):
        assert words in text


def test_a_revoked_key_opens_nothing(file: Path) -> None:
    key = keys("create", "ci").stdout.strip()
    assert keys("revoke", "ci").stdout == "revoked ci\n"
    assert ApiKeyAuthenticator("own", file).known(key) is None
    again = keys("revoke", "ci")
    assert again.exit_code == 2
    assert "'ci'" in again.stderr


def test_an_entry_is_printed_for_a_tasks_configuration(file: Path) -> None:
    made = keys("create", "team", "--print-entry", "--model", "m")
    [entry] = entries_from_text(made.stdout)
    key = next(word for word in made.stderr.split() if word.startswith("cdk-"))
    assert key not in made.stdout
    assert "api_keys" in made.stderr
    identity = ApiKeyAuthenticator("own", None, [entry]).known(key)
    assert identity is not None
    assert identity.models == {"m"}
    assert not file.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "x", "--expires", "soon"], "30d"),
        (["create", "x", "--expires", "2020-01-01"], "is over"),
        (["create", "x", "--expires", "0d"], "30d"),
        (["create", "x", "--concurrent", "0"], "--concurrent"),
        (["create", "x", "--role", "metrics", "--admin"], "contradict"),
        (["create", "x", "--print-entry", "--file", "f"], "--print-entry"),
        (["create", "instance"], "instance"),
    ],
)
def test_what_cannot_be_is_refused_and_writes_nothing(
    file: Path, words: list[str], said: str
) -> None:
    done = keys(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not file.exists()


def test_a_name_that_is_taken_is_refused(file: Path) -> None:
    keys("create", "ci")
    before = file.read_text()
    done = keys("create", "ci")
    assert done.exit_code == 2
    assert "already has a key named 'ci'" in done.stderr
    assert file.read_text() == before
