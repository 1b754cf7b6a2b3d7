"""An older real vLLM beside the newer one: installed by the instance that asks for it, then found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI
from packaging.version import Version

from apps.vllm.catalogue import SHIPPED, load_catalogue
from apps.vllm.environments.layout import own_environment
from apps.vllm.read_flags import read_catalogue
from tests.e2e.instances import KEY, running_instance
from tests.vllm.conftest import TinyModels
from tests.vllm.engine_environment import ENVIRON, READY_S, SMALL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

OLDER = "0.27.1"
# Where it has to be installed first, two gigabytes come over the network.
INSTALL_S = 600.0


def test_an_instance_installs_the_version_that_it_asks_for(
    tiny: TinyModels, tmp_path: Path
) -> None:
    parameters = {
        **{f"Model/{name}": value for name, value in SMALL.items()},
        "Model/model": str(tiny.base),
        "Model/model_endpoint_name": "older",
        "General/vllm_version": OLDER,
        "General/device": "cpu",
    }
    ready_s = INSTALL_S + READY_S
    with (
        running_instance(parameters, app="vllm", environ=ENVIRON, ready_s=ready_s) as instance,
        OpenAI(base_url=f"{instance.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        assert f"Engine: vLLM {OLDER} (CPU build" in instance.console, instance.console
        answer = client.chat.completions.create(
            model="older", messages=[{"role": "user", "content": "red"}], max_tokens=5
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5

    environment = own_environment(Version(OLDER), "cpu", os.environ)
    command = [sys.executable, "-m", "apps.vllm.install", OLDER, "--cpu"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert again.stdout.strip() == str(environment.folder)
    catalogue = read_catalogue(environment.python, os.environ, tmp_path)
    assert catalogue.flags == load_catalogue(SHIPPED / f"{OLDER}.json").flags
