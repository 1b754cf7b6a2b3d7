"""The vLLM that the tests of the engine run with: the one that `make test-engines` installs."""

from __future__ import annotations

import os
from typing import Any

import pytest
from packaging.version import Version

from apps.vllm.environments.layout import EngineEnvironment, own_environment

VERSION = "0.32.0"
# Eager, short and with a fixed seed: what starts soonest and says the same each time.
SMALL: dict[str, Any] = {"enforce_eager": True, "max_context_length": 256, "random_seed": 7}
GENERAL = {"General/vllm_version": f"{VERSION}+cpu", "General/device": "cpu"}
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "1"}
READY_S = 240.0


def installed_environment() -> EngineEnvironment:
    """The environment of the CPU build; the test fails where it is not installed."""
    environment = own_environment(Version(VERSION), "cpu", os.environ)
    if not environment.is_finished:
        pytest.fail(
            f"The tests of the engine need the CPU build of vLLM {VERSION} in {environment.folder}, "
            "which is not there. Install it with `make test-engines`.",
            pytrace=False,
        )
    return environment
