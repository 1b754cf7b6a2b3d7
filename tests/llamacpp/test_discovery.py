from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.llamacpp.engines import discovery, native
from apps.llamacpp.engines.discovery import find_engine
from common.errors import EngineConfigurationError, EngineMissingError
from tests.llamacpp.samples import OLD_HELP, load, plan_of


def server(folder: Path, version: str = "version: 7123 (79c1160b)") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llama-server"
    path.write_text(
        "#!/bin/sh\n"
        f"if [ \"$1\" = --version ]; then echo '{version}'; exit; fi\n"
        f"cat <<'END'\n{OLD_HELP}\nEND\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose PATH and cache hold no engine; nor does this interpreter."""
    monkeypatch.setattr(native.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    monkeypatch.setattr(native.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return {
        "PATH": f"{tmp_path / 'path'}:{os.defpath}",
        "CLEARML_DEPLOY_CACHE": str(tmp_path / "cache"),
    }


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        discovery, "find_wheel", lambda environ: discovery.stand_in("xllamacpp", {})
    )


def build(environ: dict[str, str], name: str) -> Path:
    folder = Path(environ["CLEARML_DEPLOY_CACHE"]) / "engines" / name
    path = server(folder / "lib" / "python3.11" / "site-packages" / "bin")
    (folder / "built.json").write_text("{}")
    return path


def test_native_on_path_comes_first(environ: dict[str, str], wheel: None, tmp_path: Path) -> None:
    path = server(tmp_path / "path")
    found = find_engine(None, None, environ)
    assert (found.kind, found.version, found.program) == ("llama-server", "b7123", (str(path),))
    assert found.label == f"llama-server b7123 ({path})"


def test_given_path_wins_over_variable_and_path(environ: dict[str, str], tmp_path: Path) -> None:
    server(tmp_path / "path")
    variable, given = server(tmp_path / "variable"), server(tmp_path / "given")
    environ["CLEARML_DEPLOY_LLAMA_SERVER"] = str(variable)
    assert find_engine("auto", None, environ).place == str(variable)
    assert find_engine("auto", str(given), environ).place == str(given)
    assert find_engine("auto", str(given.parent), environ).place == str(given)


@pytest.mark.parametrize("place", ["site/bin", "prefix/bin"])
def test_native_of_this_interpreter_is_found(
    environ: dict[str, str], tmp_path: Path, place: str
) -> None:
    path = server(tmp_path / place)
    assert find_engine(None, None, environ).place == str(path)


def test_finished_builds_are_found_the_newest_first(environ: dict[str, str]) -> None:
    old, new = build(environ, "llama-cpp-python-0.1"), build(environ, "llama-cpp-python-0.2")
    os.utime(old.parents[4] / "built.json", (1, 1))
    assert find_engine(None, None, environ).place == str(new)


def test_a_build_that_was_cut_off_is_not_used(environ: dict[str, str]) -> None:
    path = build(environ, "llama-cpp-python-0.1")
    (path.parents[4] / "built.json").unlink()
    with pytest.raises(EngineMissingError):
        find_engine(None, None, environ)


def test_libraries_beside_the_server_are_made_known(environ: dict[str, str]) -> None:
    path = build(environ, "llama-cpp-python-0.1")
    libraries = path.parents[1] / "lib"
    libraries.mkdir()
    (libraries / "libllama.so").touch()
    environ["LD_LIBRARY_PATH"] = "/mine"
    assert find_engine(None, None, environ).env["LD_LIBRARY_PATH"] == f"{libraries}:/mine"


def test_wheel_is_next_and_python_server_last(environ: dict[str, str], wheel: None) -> None:
    interpreter = build(environ, "llama-cpp-python-0.1").parents[4] / "bin" / "python"
    assert find_engine("xllamacpp", None, environ).kind == "xllamacpp"
    found = find_engine("llama_cpp.server", None, environ)
    assert (found.kind, found.version, found.place) == ("llama_cpp.server", "0.1", str(interpreter))
    for path in (interpreter.parents[1] / "lib").rglob("llama-server"):
        path.unlink()
    assert find_engine("auto", None, environ).kind == "xllamacpp"


def test_wheel_in_this_interpreter_is_found() -> None:
    found = find_engine("xllamacpp", None, os.environ)
    assert found.version
    assert found.program[0] == sys.executable


def test_nothing_installed_says_how_to_install_each(environ: dict[str, str]) -> None:
    with pytest.raises(EngineMissingError) as caught:
        find_engine(None, None, environ)
    for words in (
        "pip install xllamacpp",
        "apps.llamacpp.build_native",
        "llama-cpp-python[server]",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("choice", ["llama-server", "xllamacpp", "llama_cpp.server"])
def test_the_one_that_was_asked_for_is_missing(environ: dict[str, str], choice: Any) -> None:
    with pytest.raises(EngineMissingError, match=f"General/engine.* is {choice}"):
        find_engine(choice, None, environ)


def test_a_given_path_that_is_no_program_is_an_error(environ: dict[str, str], wheel: None) -> None:
    with pytest.raises(EngineMissingError, match=r"Llama Server Path.*'/nowhere/llama-server'"):
        find_engine(None, "/nowhere/llama-server", environ)
    environ["CLEARML_DEPLOY_LLAMA_SERVER"] = "/nowhere"
    with pytest.raises(EngineMissingError, match="CLEARML_DEPLOY_LLAMA_SERVER is '/nowhere'"):
        find_engine(None, None, environ)


def test_a_server_that_does_not_run_is_an_error(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "path" / "llama-server"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho 'libllama.so: cannot open shared object file'\nexit 127\n")
    path.chmod(0o755)
    with pytest.raises(EngineConfigurationError, match=r"exit code 127.*libllama.so"):
        find_engine(None, None, environ)


def test_leftover_variables_are_taken_from_the_engine(
    environ: dict[str, str], tmp_path: Path
) -> None:
    path = server(tmp_path / "path")
    environ |= {"LLAMA_ARG_CTX_SIZE": "5", "LLAMA_API_KEY": "hush"}
    found = find_engine(None, None, environ)
    settings = load()
    argv = found.command(plan_of(settings), settings).argv
    assert argv[:6] == ("env", "-u", "LLAMA_API_KEY", "-u", "LLAMA_ARG_CTX_SIZE", str(path))
    assert "LLAMA_ARG_CTX_SIZE" in found.notice
    assert "hush" not in found.notice + " ".join(argv)


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "1"}, None)],
)
def test_threads_spin_briefly_unless_the_worker_says(
    inherited: dict[str, str], expected: str | None
) -> None:
    assert discovery.stand_in("xllamacpp", inherited).env.get("GOMP_SPINCOUNT") == expected
