"""The committed forms: fresh, conforming, and complete in every part."""

from __future__ import annotations

import ast
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from common.cli.forms import forms
from common.forms.conditions import MODEL_THREE_WAY, NEEDS, SOURCES, THREE_WAY
from common.forms.names import has_model_list
from common.forms.panels import STATUS_ICONS
from common.forms.syntax import assets_of, check_form
from common.runtime.status import KEY_PLACEHOLDER, ModelRow, key_dashboard, status_values
from common.telemetry import names as metrics
from tests.forms.reading import APPS, FOLDER, fields_of, read_form, settings_of

ASSETS = {path.name for path in (FOLDER / "assets").iterdir()}
STATUS_NAME = re.compile(r"\$\{hyperparams\.Status\.(\w+)\.value\}")


@pytest.mark.parametrize("app", APPS)
def test_a_form_conforms_to_the_documented_syntax(app: str) -> None:
    assert check_form(read_form(app), ASSETS) == []


@pytest.mark.parametrize("app", APPS)
def test_hocon_and_json_readers_see_the_same_form(app: str) -> None:
    lines = (FOLDER / f"{app}.app.conf").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Written by")
    text = "\n".join(line for line in lines if not line.startswith("#"))
    assert json.loads(text) == read_form(app)


def test_the_committed_forms_are_fresh() -> None:
    result = CliRunner().invoke(forms, ["check"])
    assert result.exit_code == 0, result.output


def test_check_names_what_is_stale_and_build_renews_it(tmp_path: Path) -> None:
    folder = ["-o", str(tmp_path)]
    assert CliRunner().invoke(forms, ["check", *folder]).exit_code == 1
    assert CliRunner().invoke(forms, ["build", *folder]).exit_code == 0
    assert CliRunner().invoke(forms, ["check", *folder]).exit_code == 0
    stale = tmp_path / "vllm.app.conf"
    stale.write_text(stale.read_text(encoding="utf-8") + " ", encoding="utf-8")
    result = CliRunner().invoke(forms, ["check", *folder])
    assert (result.exit_code, result.output.count("stale:")) == (1, 1)
    assert "vllm.app.conf" in result.output
    written = CliRunner().invoke(forms, ["build", *folder]).output.splitlines()
    assert written == [f"written: {stale}"]


@pytest.mark.parametrize("app", APPS)
def test_the_general_part_and_the_task_are_complete(app: str) -> None:
    form = read_form(app)
    assert {
        "id",
        "name",
        "version",
        "provider",
        "description",
        "icon",
        "no_info_html",
        "default_queue",
        "badges",
        "resumable",
        "category",
        "details_page",
    } <= form.keys()
    assert form["resumable"] is True
    script = form["task"]["script"]
    assert script["entry_point"] == f"-m apps.{app}"
    assert script["working_dir"] == "."
    assert script["repository"]
    assert script["branch"]
    assert any(line.startswith("clearml>=") for line in script["requirements"]["pip"])
    assert form["task"]["container"]["image"]


@pytest.mark.parametrize("app", APPS)
def test_the_task_has_every_parameter_with_its_default(app: str) -> None:
    sections = read_form(app)["task"]["hyperparams"]
    held = {
        f"{section}/{name}": value
        for section in sections
        for name, value in sections[section].items()
    }
    options = {option.path: option for option in settings_of(app).options(entry=False)}
    assert held.pop("Models/models") == ""
    assert held.keys() == options.keys()
    assert {path: value for path, value in held.items() if value} == {
        path: str(option.default) for path, option in options.items() if option.default is not None
    }


@pytest.mark.parametrize("app", APPS)
def test_fields_write_to_the_parameters_of_their_options(app: str) -> None:
    settings = settings_of(app)
    targets = {
        (entry["target"].get("section", ""), entry["target"]["name"])
        for _, entry in fields_of(app)
        if "target" in entry
    }
    has_list = has_model_list(settings)
    wanted = {
        (option.group, option.name)
        for option in settings.options()
        if not (has_list and option.per_model)
    }
    assert targets == wanted
    models = [e for e in read_form(app)["wizard"]["entries"] if e["type"] == "list"]
    assert len(models) == has_list
    for entry in models:
        assert entry["target"] == {
            "field": "hyperparams",
            "section": "Models",
            "name": "models",
            "format": "json",
        }
        assert entry["collapsibleTitleTemplate"] == "${model}"


@pytest.mark.parametrize("app", APPS)
def test_fields_have_the_types_of_their_options(app: str) -> None:
    fields = {entry["name"]: entry for _, entry in fields_of(app)}
    assert fields["queue"]["required"]
    assert fields["model"]["required"]
    for name, source in SOURCES.items():
        if name in fields:
            assert fields[name]["choices"]["source"] == source
            # A model may also be one of Hugging Face, or a path: any text.
            assert fields[name]["type"] == ("string" if source == "model" else "dropdown")
    assert "choices" not in fields["general_gateway_route"]
    assert fields["general_drain_seconds"]["type"] == "float"
    assert fields["general_drain_seconds"]["default"] == 30.0
    assert all(entry["info"] for entry in fields.values())


@pytest.mark.parametrize("app", APPS)
def test_secrets_are_marked_and_never_prefilled(app: str) -> None:
    secret = {option.path for option in settings_of(app).options() if option.secret}
    marked = [entry for _, entry in fields_of(app) if entry.get("secret")]
    assert {f"{e['target']['section']}/{e['target']['name']}" for e in marked} == secret
    for entry in marked:
        assert entry["type"] == "string"
        assert not {"default", "placeholder"} & entry.keys()


@pytest.mark.parametrize("app", APPS)
def test_a_switch_that_can_be_left_alone_is_no_checkbox(app: str) -> None:
    settings = settings_of(app)
    paths = {
        option.path: option for option in settings.options(entry=False) if option.type == "boolean"
    }
    fields = {(group, entry["title"]): entry for group, entry in fields_of(app)}
    titles = {"Advanced": "Advanced", "General": "General", "LoRA": "LoRA Configuration"}
    for path, option in paths.items():
        group = "Model Configuration" if option.per_model else titles[option.group]
        entry = fields[group, option.title]
        three_way = path in THREE_WAY or (path in MODEL_THREE_WAY and has_model_list(settings))
        if three_way:
            assert (entry["type"], entry["choices"]) == ("dropdown", ["true", "false"])
            unset = "As in General" if path in MODEL_THREE_WAY else "The engine's default"
            assert entry["placeholder"] == (option.placeholder or unset)
            assert "default" not in entry
        else:
            assert (entry["type"], entry["default"]) == ("checkbox", False)
            # An engine's option with two flags has a default that a checkbox would override.
            assert option.no_flag is None, path


def test_the_tables_of_single_options_name_real_ones() -> None:
    paths = {option.path for app in APPS for option in settings_of(app).options(entry=False)}
    assert THREE_WAY | MODEL_THREE_WAY <= paths
    assert NEEDS.keys() | {switch for switch, _ in NEEDS.values()} <= paths


@pytest.mark.parametrize(
    ("app", "field", "switch", "value"),
    [
        ("vllm", "tool_call_parser", "enable_auto_tool_choice", True),
        ("vllm", "reasoning_parser", "enable_reasoning", True),
        ("vllm", "lora_lora_modules", "lora_enable_lora", True),
        (
            "vllm",
            "advanced_enable_disk_swapping",
            "advanced_enable_automatic_cpu_offloading",
            False,
        ),
        ("legacy_model", "lora_max_loras", "lora_enable_lora", True),
        (
            "llamacpp",
            "general_enable_disk_swapping",
            "general_enable_automatic_cpu_offloading",
            False,
        ),
        (
            "llamacpp",
            "general_max_host_memory_gib",
            "general_enable_automatic_cpu_offloading",
            True,
        ),
    ],
)
def test_a_field_that_only_matters_with_another_depends_on_it(
    app: str, field: str, switch: str, value: bool
) -> None:
    entry = next(entry for _, entry in fields_of(app) if entry["name"] == field)
    assert entry["conditional"]["entries"] == [{"name": switch, "value": value}]


def panels(app: str) -> list[dict[str, Any]]:
    return [panel for line in read_form(app)["dashboard"]["lines"] for panel in line["contents"]]


@pytest.mark.parametrize("app", APPS)
def test_the_dashboard_shows_what_the_original_shows(app: str) -> None:
    has_list = has_model_list(settings_of(app))
    shown = {name for panel in panels(app) for name in STATUS_NAME.findall(panel.get("text", ""))}
    wanted = {"status", "idle_hours", "idle_limit", "session", "console_log"}
    wanted |= (
        {"token_link", "models_table", "curl_example"}
        if has_list
        else {"endpoint", "api_base", "api_key", "test_command"}
    )
    assert shown == wanted
    titles = [panel["title"] for panel in panels(app)]
    machine = ["CPU usage", "Memory performance", "Network throughput", "Disk performance"]
    machine += ["GPU utilization", "GPU memory usage", "GPU temperature"]
    assert titles[-8:] == [*machine, "Console log"]
    plotted = [p["metric"] for p in panels(app) if not p.get("metric", ":").startswith(":")]
    of_models = ["Total Number of Requests", "Tokens per Second", "Latency (ms)"]
    assert plotted == (of_models if has_list else [of_models[0], of_models[2]])


def test_the_dashboards_read_what_an_instance_writes() -> None:
    row = ModelRow("name", "http://localhost/v1", "ready")
    written = status_values("active", [row], idle_s=0, limit_hours=None).keys()
    written |= key_dashboard("name", "http://localhost", is_embedding=False, key="key").keys()
    # The rest is announced once: the keys of dictionaries, and of items that are set.
    source = Path(__file__).resolve().parents[2] / "common/runtime/announcement.py"
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            written |= {node.value}
    for app in APPS:
        for panel in panels(app):
            assert set(STATUS_NAME.findall(panel.get("text", ""))) <= written
    access = next(panel for panel in panels("vllm") if panel["title"] == "Model access")
    assert KEY_PLACEHOLDER in access["text"]
    # What the panel looks for in the example, to put another prompt in its place.
    assert (
        "Hello world!" in status_values("active", [row], idle_s=0, limit_hours=None)["curl_example"]
    )


def test_long_addresses_wrap_in_the_models_table() -> None:
    table = next(panel for panel in panels("vllm") if panel["title"] == "Models")
    assert "td:nth-child(-n+2) { overflow-wrap: anywhere; }" in table["text"]


def test_the_plots_have_the_titles_of_the_scalars() -> None:
    titles = {
        value.scalar_title for value in vars(metrics).values() if isinstance(value, metrics.Metric)
    }
    for app in APPS:
        for panel in panels(app):
            metric = panel.get("metric", "")
            assert not metric or metric.startswith(":monitor:") or metric in titles


def test_every_asset_is_used_and_every_icon_is_an_image() -> None:
    assert {asset for app in APPS for asset in assets_of(read_form(app))} == ASSETS
    assert {f"status-{status}.svg" for status in STATUS_ICONS} < ASSETS
    for name in ASSETS:
        if name.endswith(".svg"):
            root = ElementTree.parse(FOLDER / "assets" / name).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
