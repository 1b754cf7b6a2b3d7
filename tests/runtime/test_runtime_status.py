"""What ``Status/*`` says, and the keys of instances without a server."""

from __future__ import annotations

import html
import json
import re
import shlex
import stat
from pathlib import Path

import pytest

from common.runtime.offline_keys import forget_key, keep_key, read_key
from common.runtime.status import ModelRow, access_example, models_table, status_values

ROW = ModelRow("org/repo's <b>", "http://h:8800/org/x/v1", "ready")


def test_the_table_is_html_and_names_cannot_break_out_of_it() -> None:
    table = models_table([ROW, ModelRow("m", "http://h", "loading", "downloading 1 of 2 MB")])
    assert "<b>" not in table
    assert "org/repo&#x27;s &lt;b&gt;" in table
    assert "<td>downloading 1 of 2 MB</td>" in table
    assert "<td>loading</td>" not in table


def test_each_row_of_the_table_has_the_example_of_its_model() -> None:
    rows = [ROW, ModelRow("e", "http://h:8800/e/v1", "ready", is_embedding=True)]
    found = re.findall(r'data-example="([^"]*)"', models_table(rows))
    examples = [shlex.split(html.unescape(text).replace("\\\n", "")) for text in found]
    assert [words[1] for words in examples] == [
        f"{ROW.url}/chat/completions",
        "http://h:8800/e/v1/embeddings",
    ]
    bodies = [json.loads(words[words.index("-d") + 1]) for words in examples]
    assert [body["model"] for body in bodies] == [ROW.name, "e"]
    values = status_values("idle", rows, idle_s=0, limit_hours=None)
    assert shlex.split(values["curl_example"].replace("\\\n", "")) == examples[0]


def test_the_example_is_one_shell_command_with_valid_json() -> None:
    for is_embedding, path, field in (
        (False, "/chat/completions", "messages"),
        (True, "/embeddings", "input"),
    ):
        words = shlex.split(
            access_example(ROW, is_embedding=is_embedding, key="k").replace("\\\n", "")
        )
        assert words[:2] == ["curl", ROW.url + path]
        assert "Authorization: Bearer k" in words
        body = json.loads(words[words.index("-d") + 1])
        assert body["model"] == ROW.name
        assert field in body


def test_values_of_an_instance_without_a_limit() -> None:
    values = status_values("idle", [ROW], idle_s=5400, limit_hours=None)
    assert (values["status"], values["idle_hours"], values["idle_limit"]) == ("idle", "1.5", "∞")
    assert json.loads(values["models"])[0]["url"] == ROW.url
    assert status_values("idle", [], idle_s=0, limit_hours=0.25)["idle_limit"] == "0.25"
    assert "curl_example" not in status_values("loading", [], idle_s=0, limit_hours=None)


def test_an_offline_key_is_its_users_alone_and_goes_with_the_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = keep_key("offline-abc", "cdk-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_key("offline-abc") == "cdk-1"
    assert list(path.parent.iterdir()) == [path]
    forget_key("offline-abc")
    forget_key("offline-abc")
    assert read_key("offline-abc") is None


@pytest.mark.parametrize("task_id", ["abc", "../offline-abc", "offline-/../abc"])
def test_only_names_of_offline_instances_lead_to_a_key(
    task_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".clearml-deploy" / "instance-keys"
    folder.mkdir(parents=True)
    (folder / "abc").write_text("secret")
    (folder.parent / "offline-abc").write_text("secret")
    assert read_key(task_id) is None
