"""``clearml-deploy command`` for the vLLM apps: what would run, from the form to the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from apps.vllm.catalogue import SHIPPED
from common.cli.inspect import command

MODELS = [{"model": "org/one"}, {"model": "org/two"}]


def show(app: str, parameters: dict[str, Any], version: str, folder: Path) -> Any:
    config = folder / "config.json"
    config.write_text(json.dumps(parameters))
    arguments = [
        app,
        "--config",
        str(config),
        "--flags",
        str(SHIPPED / f"{version}.json"),
        "--json",
    ]
    result = CliRunner().invoke(command, arguments)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.output)


def test_the_command_can_be_run_by_hand(tmp_path: Path) -> None:
    parameters = {"models": [{"model": "org/one", "tokenizer": "org/words"}]}
    shown = show("vllm", parameters, "0.32.0", tmp_path)
    assert shown["engine_version"] == "0.32.0"
    argv = shown["models"][0]["argv"]
    assert argv[:3] == ["vllm", "serve", "org/one"]
    assert argv[argv.index("--tokenizer") + 1] == "org/words"


def test_a_problem_of_a_shared_option_is_told_once(tmp_path: Path) -> None:
    parameters = {"models": MODELS, "General": {"load_format": "blah"}}
    with pytest.raises(Exception, match="has 1 problem") as caught:
        show("vllm", parameters, "0.7.2", tmp_path)
    assert '"Load Format" (General/load_format)' in str(caught.value)


@pytest.mark.parametrize("version", ["0.6.6", "0.10.0", "0.33.0"])
def test_secrets_are_masked(version: str, tmp_path: Path) -> None:
    parameters = {
        "Model/model": "org/one",
        "General/hugging_face_token": "hf_topsecret",
        "General/fixed_api_access_key": "sk-topsecret",
    }
    shown = show("legacy_model", parameters, version, tmp_path)
    assert "topsecret" not in json.dumps(shown)
    assert shown["models"][0]["env"]["HF_TOKEN"] == "******"
