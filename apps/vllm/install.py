"""Install a vLLM beforehand, for the image of a worker: ``python -m apps.vllm.install 0.32.0 --cpu``.

It is what an instance with this "vLLM Version" would install, and finds afterwards. Prints the folder
of the environment as the last line of its output; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from apps.vllm.catalogue import OLDEST
from apps.vllm.discovery import catalogue_folder
from apps.vllm.environments.installer import install_environment
from apps.vllm.environments.layout import own_environment
from apps.vllm.facts import Build
from apps.vllm.read_flags import read_catalogue
from common.errors import DeployError


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, or find what was installed; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.vllm.install", description="Install a vLLM into its own environment."
    )
    parser.add_argument("version", type=_version, help=f"{OLDEST} or later; 0.32.0+cpu is --cpu.")
    parser.add_argument("--cpu", action="store_true", help="The build for machines without GPU.")
    given = parser.parse_args(arguments)
    build: Build = "cpu" if given.cpu or given.version.local == "cpu" else "gpu"
    environment = own_environment(Version(given.version.public), build, os.environ)
    try:
        install_environment(environment, os.environ, _say, threading.Event())
        _say(f"Reading the flags of {environment.title} ...")
        read_catalogue(environment.python, os.environ, catalogue_folder(os.environ))
    except DeployError as error:
        _say(str(error))
        return 1
    print(environment.folder)  # noqa: T201 - the command's result
    return 0


def _version(text: str) -> Version:
    try:
        version = Version(text)
    except InvalidVersion as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no version") from error
    if version < OLDEST:
        raise argparse.ArgumentTypeError(f"{text} is too old: {OLDEST} or later can be used")
    if version.local not in (None, "cpu"):
        raise argparse.ArgumentTypeError("of the builds, only +cpu can be asked for")
    return version


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - a command for people


if __name__ == "__main__":
    sys.exit(main())
