"""An administrator's overrides, and the archives for a server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from common.cli.main import main
from tests.forms.reading import APPS, FOLDER

REPOSITORY = "https://git.acme.com/clearml-deploy.git"

HOCON = """
# part of services/applications.conf
app_wizard_overrides {
  "clearml-deploy-vllm" {
    "queue" {
      "default": "gpu-8"
      "options": ["gpu-1", {"label": "eight GPUs", "value": "gpu-8"}]
    }
    general_port { default: 8800, hint: "Open in our firewall", placeholder: "8800" }
    tool_call_parser { options: [hermes, mistral], default: hermes, info: "Ours" }
    general_use_v1_engine { default: true }
  }
}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["forms", *arguments])


def built(folder: Path, app: str) -> dict[str, dict[str, Any]]:
    """The fields of a form by name."""
    lines = (folder / f"{app}.app.conf").read_text(encoding="utf-8").splitlines()
    form = json.loads("\n".join(line for line in lines if not line.startswith("#")))
    entries = form["wizard"]["entries"]
    inner = [item for entry in entries for item in entry.get("item_template", [])]
    return {entry["name"]: entry for entry in [*entries, *inner]}


def test_overrides_change_the_fields_that_they_name(tmp_path: Path) -> None:
    overrides = tmp_path / "applications.conf"
    overrides.write_text(HOCON, encoding="utf-8")
    folder = tmp_path / "forms"
    result = run("build", "-o", str(folder), "--overrides", str(overrides))
    assert result.exit_code == 0, result.output
    fields = built(folder, "vllm")
    queue = fields["queue"]
    assert (queue["type"], queue["default"]) == ("dropdown", "gpu-8")
    assert queue["choices"] == ["gpu-1", {"label": "eight GPUs", "value": "gpu-8"}]
    port = fields["general_port"]
    assert (port["default"], port["placeholder"]) == ("8800", "8800")
    assert port["hint"] == "Open in our firewall"
    parser = fields["tool_call_parser"]
    assert (parser["type"], parser["choices"]) == ("dropdown", ["hermes", "mistral"])
    assert (parser["default"], parser["info"]) == ("hermes", "Ours")
    assert fields["general_use_v1_engine"]["default"] == "true"
    for app in ("llamacpp", "legacy_model"):
        committed = (FOLDER / f"{app}.app.conf").read_bytes()
        assert (folder / f"{app}.app.conf").read_bytes() == committed
    assert run("check", "-o", str(folder), "--overrides", str(overrides)).exit_code == 0
    assert run("check", "-o", str(folder)).exit_code == 1


def test_the_same_overrides_as_json_give_the_same_forms(tmp_path: Path) -> None:
    hocon, plain = tmp_path / "a.conf", tmp_path / "a.json"
    hocon.write_text("app_wizard_overrides { clearml-deploy-llamacpp { queue { default: gpu } } }")
    plain.write_text(
        json.dumps(
            {"app_wizard_overrides": {"clearml-deploy-llamacpp": {"queue": {"default": "gpu"}}}}
        )
    )
    for path in (hocon, plain):
        folder = tmp_path / path.suffix[1:]
        assert run("build", "-o", str(folder), "--overrides", str(path)).exit_code == 0
    assert built(tmp_path / "conf", "llamacpp")["queue"]["default"] == "gpu"
    assert built(tmp_path / "conf", "llamacpp") == built(tmp_path / "json", "llamacpp")


def test_everything_that_is_wrong_with_overrides_is_said(tmp_path: Path) -> None:
    fields = {
        "quue": {"default": "x"},
        "queue": {"defualt": "x"},
        "general_enable_debug_mode": {"options": ["a"]},
        "general_drain_seconds": {"default": "soon"},
        "general_api_key": {"default": "key"},
        "models": {"default": "x"},
        "idle": "x",
    }
    overrides = tmp_path / "bad.json"
    overrides.write_text(
        json.dumps(
            {"app_wizard_overrides": {"clearml-deploy-vlm": {}, "clearml-deploy-llamacpp": fields}}
        )
    )
    result = run("build", "-o", str(tmp_path / "forms"), "--overrides", str(overrides))
    assert result.exit_code == 2
    assert not (tmp_path / "forms").exists()
    for words in (
        'clearml-deploy-vlm: there is no such application; the nearest is "clearml-deploy-vllm"',
        '.quue: there is no such field; the nearest is "queue"',
        '.queue.defualt: there is no such property; the nearest is "default"',
        ".general_enable_debug_mode.options: a field of the type checkbox has no options",
        "general_drain_seconds: cannot be its default, 'soon'",
        ".general_api_key.default: this field has no default",
        ".models.default: this field has no default",
        ".idle: must be an object of options, default, placeholder, hint, info",
    ):
        assert words in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "app_wizard_overrides: there is no such section"),
        ("a {", "is neither JSON nor HOCON"),
        (None, "cannot be read"),
    ],
)
def test_overrides_that_are_none_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "overrides.conf"
    if text is not None:
        path.write_text(text)
    result = run("check", "--overrides", str(path))
    assert result.exit_code == 2
    assert words in result.output


def test_packages_hold_the_form_with_its_assets_and_are_the_same_each_time(tmp_path: Path) -> None:
    given = ("--repository", REPOSITORY, "--branch", "stable", "--image", "acme/llm:1")
    for name in ("one", "two"):
        result = run("package", "-o", str(tmp_path / name), "--default-queue", "gpu", *given)
        assert result.exit_code == 0, result.output
        assert "warning" not in result.output
    for app in APPS:
        path = tmp_path / "one" / f"{app}.zip"
        assert path.read_bytes() == (tmp_path / "two" / f"{app}.zip").read_bytes()
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            text = archive.read(f"{app}.app.conf").decode()
        form = json.loads(text[text.index("{") :])
        assert names == sorted(names)
        assert f"{app}.app.conf" in names
        assert "assets/status-active.svg" in names
        script = form["task"]["script"]
        assert (script["repository"], script["branch"]) == (REPOSITORY, "stable")
        assert form["task"]["container"]["image"] == "acme/llm:1"
        assert form["default_queue"] == "gpu"


def test_a_package_without_a_repository_is_warned_of(tmp_path: Path) -> None:
    result = run("package", "-o", str(tmp_path))
    assert result.exit_code == 0
    assert "warning: no --repository given" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {f"{app}.zip" for app in APPS}


def test_each_app_can_have_an_image_of_its_own(tmp_path: Path) -> None:
    images = ("--image", "acme/all:1", "--image", "vllm=acme.com:5000/vllm:2")
    assert run("build", "-o", str(tmp_path), *images).exit_code == 0
    found = {}
    for app in APPS:
        text = (tmp_path / f"{app}.app.conf").read_text(encoding="utf-8")
        found[app] = json.loads(text[text.index("{") :])["task"]["container"]["image"]
    assert found.pop("vllm") == "acme.com:5000/vllm:2"
    assert set(found.values()) == {"acme/all:1"}
    result = run("build", "-o", str(tmp_path), "--image", "vlm=acme/vllm:2")
    assert result.exit_code == 2
    assert "'vlm' is none of llamacpp, vllm, legacy_model" in result.output
