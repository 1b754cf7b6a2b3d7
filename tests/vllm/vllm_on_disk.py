"""A small ``vllm`` on disk in an environment of its own, for a real interpreter to import."""

from __future__ import annotations

import sys
import textwrap
import venv
from pathlib import Path

MAIN = """
import argparse
import json
import os
import sys

PREPARE


class FlexibleArgumentParser(argparse.ArgumentParser):
    def parse_args(self, args=None, namespace=None):
        args = [arg.replace("_", "-") for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_args(args, namespace)


class StoreBoolean(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values.lower() == "true")


def size(text):
    if text == "auto":
        raise ValueError(text)
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def size_or_auto(text):
    return -1 if text in ("-1", "auto") else size(text)


def pairs(text):
    return {key: int(value) for key, value in (item.split("=") for item in text.split(","))}


def json_or_text(text):
    return json.loads(text) if text.startswith("{") else text


def optional(read):
    return lambda text: None if text in ("", "None") else read(text)


def main():
    stray = argparse.ArgumentParser()
    stray.add_argument("--stray")
    stray.parse_known_args([])
    parser = FlexibleArgumentParser()
    parser.add_argument("-v", "--version", action="version", version="1")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("chat").add_argument("--chat-only")
    serve = commands.add_parser("serve")
    serve.add_argument("model_tag", nargs="?")
    ARGUMENTS
    args = parser.parse_args()
    raise SystemExit("the server was started")
"""

ARGUMENTS = """
add = serve.add_argument
add("--text")
add("--model", type=str, choices=["b", "a"])
add("--number", "-n", "--count", type=int, choices=[1, 2])
add("--nullable-number", type=optional(int))
add("--share", type=optional(float))
add("--size", type=size)
add("--size-or-auto", type=optional(size_or_auto))
add("--config-json", "-cj", type=optional(json.loads))
add("--json-or-text", type=json_or_text)
add("--pairs", type=pairs)
add("--ids", type=lambda text: text.split(","))
add("--literal", choices=["x", None])
add("--names", nargs="+")
add("--numbers", nargs="*", type=int)
add("--each", action="append")
add("--token", nargs="?", const=True)
add("--on", action="store_true")
add("--off", action="store_false")
add("--pair", action=argparse.BooleanOptionalAction)
add("--worded", action=StoreBoolean, nargs="?", const="True")
add("--gone", help="[DEPRECATED] does nothing")
add("--leaving", help="--leaving is deprecated")
add("--fresh", help="Lists deprecated metrics")
serve._option_string_actions["--hidden-pair"] = serve._option_string_actions["--pair"]
"""


def make_environment(
    folder: Path,
    *,
    version: str | None = "0.32.0",
    distribution: str = "vllm",
    arguments: str = ARGUMENTS,
    prepare: str = "",
) -> Path:
    """Make an environment; return its interpreter.

    Args:
        folder: Where it goes.
        version: What its metadata says; None for an environment without vLLM.
        distribution: What the distribution is called.
        arguments: Statements that add the arguments of ``serve``.
        prepare: Statements that run when the command line is imported.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    if version is not None:
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        _write_package(
            folder / "lib" / name / "site-packages", version, distribution, arguments, prepare
        )
    return python


def metadata_folder(python: Path) -> Path:
    """The folder whose age says when vLLM was installed."""
    return next(python.parent.parent.glob("lib/python*/site-packages/*.dist-info"))


def _write_package(
    site: Path, version: str, distribution: str, arguments: str, prepare: str
) -> None:
    code = MAIN.replace("    ARGUMENTS\n", textwrap.indent(arguments.strip() + "\n", "    "))
    _write(site / "vllm" / "__init__.py", f"__version__ = {version!r}\n")
    _write(site / "vllm" / "somewhere" / "new.py", code.replace("PREPARE", prepare))
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    _write(info / "METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    _write(info / "entry_points.txt", "[console_scripts]\nvllm = vllm.somewhere.new:main\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
