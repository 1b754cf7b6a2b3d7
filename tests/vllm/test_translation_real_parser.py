"""The arguments of every field, read by the parser and the configuration classes of a real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.vllm.engine_environment import VERSION
from tests.vllm.samples import FORMS, write
from tests.vllm.test_translation_table import NEEDS, fields, values

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs beside vLLM: tells what it refuses, as JSON in the last line.
READ_ALL = """
import dataclasses, json, sys
from apps.vllm.flag_reader import serve_parser

cases = json.load(sys.stdin)
parser = serve_parser()
refused = {}

def error(message):
    raise ValueError(message)

parser.error = error
from vllm.config import PoolerConfig, SpeculativeConfig, StructuredOutputsConfig

configs = {
    "--pooler-config": PoolerConfig,
    "--speculative-config": SpeculativeConfig,
    "--structured-outputs-config": StructuredOutputsConfig,
}
for name, arguments in cases.items():
    try:
        read = parser.parse_args(arguments)
        assert read.model_tag == "/cache/base", read.model_tag
        for flag, config in configs.items():
            if flag in arguments:
                given = json.loads(arguments[arguments.index(flag) + 1])
                unknown = set(given) - {field.name for field in dataclasses.fields(config)}
                assert not unknown, f"{flag} has no {unknown}"
    except Exception as error:
        refused[name] = f"{arguments}: {error!r}"
print()
print(json.dumps({"read": len(cases), "refused": refused}))
"""


def test_a_real_parser_takes_every_field(vllm_python: Path) -> None:
    cases = {}
    for form in FORMS:
        for option in fields(form):
            for value in values(option):
                given = {**NEEDS.get(option.path, {}), option.path: value}
                cases[f"{form} {option.path}={value}"] = write(VERSION, form, **given).argv[2:]
        together = {option.path: values(option)[0] for option in fields(form)}
        together |= {"LoRA/enable_lora": True}
        if form == "vllm":
            together["Advanced/hf_overrides"] = '{"vocab_size": 5}'
        cases[f"{form} all"] = write(VERSION, form, **together).argv[2:]
    done = subprocess.run(
        [vllm_python, "-c", READ_ALL],
        input=json.dumps(cases),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "VLLM_LOGGING_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refused"] == {}
    assert told["read"] == len(cases) > 200
