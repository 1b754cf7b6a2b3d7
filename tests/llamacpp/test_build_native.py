from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apps.llamacpp.build_native import VERSION, build, default_prefix
from common.errors import EngineMissingError


def finished(prefix: Path, version: str = VERSION) -> Path:
    server = prefix / "lib" / "python3.11" / "site-packages" / "bin" / "llama-server"
    server.parent.mkdir(parents=True)
    server.touch()
    marker = {"version": version, "server": str(server.relative_to(prefix))}
    (prefix / "built.json").write_text(json.dumps(marker))
    return server


def test_what_was_built_is_found_and_printed(tmp_path: Path) -> None:
    environ = {**os.environ, "CLEARML_DEPLOY_CACHE": str(tmp_path)}
    server = finished(default_prefix(environ))
    done = subprocess.run(
        [sys.executable, "-m", "apps.llamacpp.build_native"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{server}\n"


def test_without_a_compiler_nothing_is_begun(tmp_path: Path) -> None:
    prefix = tmp_path / "p"
    with pytest.raises(EngineMissingError, match="No C\\+\\+ compiler.*build-essential"):
        build(prefix, {"PATH": str(tmp_path)})
    assert not prefix.exists()


def test_another_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    finished(tmp_path / "p", version="0.0.1")
    with pytest.raises(EngineMissingError, match="No C\\+\\+ compiler"):
        build(tmp_path / "p", {"PATH": str(tmp_path)})


def test_a_build_that_fails_tells_why_and_leaves_no_marker(tmp_path: Path) -> None:
    prefix = tmp_path / "p"
    # No index: pip ends as it does where the package cannot be had.
    environ = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "CXX": sys.executable}
    with pytest.raises(EngineMissingError) as caught:
        build(prefix, environ)
    assert f"{prefix}.log" in str(caught.value)
    assert "pip install xllamacpp" in str(caught.value)
    assert "llama-cpp-python" in Path(f"{prefix}.log").read_text()
    assert not (prefix / "built.json").exists()
