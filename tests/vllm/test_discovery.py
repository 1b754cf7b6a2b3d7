from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from apps.vllm import discovery, machine, worker_engine
from apps.vllm.discovery import find_engine, preview_engine, ready_engine, shipped_catalogue
from apps.vllm.environments import installer
from apps.vllm.environments.installer import install_environment
from apps.vllm.environments.layout import EngineEnvironment, own_environment
from apps.vllm.options import VllmSettings
from common.errors import ConfigurationError, EngineMissingError
from common.models.memory import AvailableMemory
from common.options.loading import load_settings
from tests.fakes.package_index import PackageIndex
from tests.vllm.fake_vllm import environ_of, vllm
from tests.vllm.samples import VERSIONS

NEWEST = max(VERSIONS, key=Version)


def settings_of(**general: Any) -> VllmSettings:
    parameters = {f"General/{name}": value for name, value in general.items()}
    return load_settings(VllmSettings, {"Model/model": "org/repo", **parameters}).settings


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EngineEnvironment]]:
    """Environments of a worker: the newest shipped release, and one that is too old."""
    folder = tmp_path_factory.mktemp("worker")
    made = {}
    with PackageIndex() as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(installer, "NEEDED_BYTES", {"cpu": 1, "gpu": 1})
        patch.setattr(installer, "RESERVE_BYTES", 0)
        index.add(vllm(NEWEST), vllm("0.6.5"))
        environ = environ_of(index.url, folder, "uv")
        for name, version, build in (("gpu", NEWEST, "gpu"), ("old", "0.6.5", "gpu")):
            made[name] = own_environment(Version(version), build, environ)  # type: ignore[arg-type]
            install_environment(made[name], environ, lambda line: None, threading.Event())
        yield made


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """A machine without vLLM whose cache is empty; two GPUs."""
    monkeypatch.setattr(discovery, "visible_gpu_count", lambda environ: 2)
    return {**environ_of("http://127.0.0.1:1/", tmp_path, "uv"), "PATH": "/usr/bin:/bin"}


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "visible_gpu_count", lambda environ: 0)


def test_a_worker_without_vllm_is_told_how_to_get_one(environ: Mapping[str, str]) -> None:
    with pytest.raises(EngineMissingError) as caught:
        find_engine(settings_of(), environ)
    for way in ("pip install vllm", "CLEARML_DEPLOY_VLLM", '"vLLM Version"'):
        assert way in str(caught.value)


def test_an_environment_is_found_by_the_variable_and_on_path(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    own = worker["gpu"]
    by_program = {"PATH": f"{own.folder / 'bin'}:/usr/bin:/bin"}
    for named in (
        {"CLEARML_DEPLOY_VLLM": str(own.folder)},
        {"CLEARML_DEPLOY_VLLM": str(own.python)},
        by_program,
    ):
        engine = find_engine(settings_of(), {**environ, **named})
        assert engine.facts.program == (str(own.program),)
        assert engine.version == NEWEST
        assert engine.label == f"vLLM {NEWEST} ({own.folder})"
        assert engine.facts.gpus == 2
        assert engine.facts.build == "gpu"


def test_a_program_away_from_its_interpreter_is_found_on_path(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment], tmp_path: Path
) -> None:
    """As in vLLM's own images: /usr/local/bin/vllm by /usr/bin/python3."""
    program = tmp_path / "local" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(worker["gpu"].program.read_text())
    program.chmod(0o755)
    engine = find_engine(settings_of(), {**environ, "PATH": str(program.parent)})
    assert engine.facts.program == (str(program),)
    assert engine.version == NEWEST
    assert "--uds" in ready_engine(engine, settings_of(), environ).facts.catalogue


def test_what_the_variable_names_comes_before_what_is_on_path(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    both = {
        **environ,
        "PATH": str(worker["old"].program.parent),
        "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder),
    }
    assert find_engine(settings_of(), both).version == NEWEST


def test_the_agents_python_does_not_reach_another_interpreter(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    env = find_engine(settings_of(), named).facts.env
    assert env["PYTHONPATH"] == ""
    assert env["VIRTUAL_ENV"] == ""
    assert env["PATH"].split(os.pathsep)[0] == str(worker["gpu"].folder / "bin")


def test_a_variable_that_names_nothing_is_an_error(environ: Mapping[str, str]) -> None:
    with pytest.raises(EngineMissingError, match="'/nowhere', which is neither"):
        find_engine(settings_of(), {**environ, "CLEARML_DEPLOY_VLLM": "/nowhere"})


def test_one_that_is_too_old_is_refused(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["old"].folder)}
    with pytest.raises(EngineMissingError, match=r"vLLM 0\.6\.5 .* is too old"):
        find_engine(settings_of(), named)


def test_the_workers_own_is_taken_when_it_is_the_wanted_version(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    engine = find_engine(settings_of(vllm_version=NEWEST), named)
    assert engine.is_installed
    assert engine.facts.program == (str(worker["gpu"].program),)


@pytest.mark.parametrize("wanted", ["0.7.2", f"{NEWEST}+cpu"])
def test_another_version_or_build_gets_an_environment_of_its_own(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment], wanted: str
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    engine = find_engine(settings_of(vllm_version=wanted), named)
    assert not engine.is_installed
    assert "will be installed" in engine.notice
    cache = Path(environ["CLEARML_DEPLOY_CACHE"])
    assert engine.facts.program == (str(cache / "engines" / f"vllm-{wanted}" / "bin" / "vllm"),)


def test_one_that_was_installed_tells_its_own_flags(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    found = find_engine(settings_of(), named)
    assert len(found.facts.catalogue.flags) > 100  # as released
    engine = ready_engine(found, settings_of(), named)
    assert set(engine.facts.catalogue.flags) >= {"--max-model-len", "--uds"}
    assert len(engine.facts.catalogue.flags) < 10
    assert engine.listens_on_sockets


def test_flags_of_another_release_are_no_reason_to_refuse(environ: Mapping[str, str]) -> None:
    settings = settings_of(vllm_version="0.33.5")
    engine = find_engine(settings, environ)
    model = load_settings(
        VllmSettings, {"Model/model": "org/repo", "Model/cli": "--new-in-that-version 1"}
    ).settings.models[0]
    assert engine.check("Model", model, settings) == []
    known = find_engine(settings_of(vllm_version=NEWEST), environ)
    assert len(known.check("Model", model, settings)) == 1


def test_without_a_gpu_the_cpu_build_must_be_asked_for(
    environ: Mapping[str, str],
    worker: Mapping[str, EngineEnvironment],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_gpu(monkeypatch)
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    for settings, where in ((settings_of(), named), (settings_of(vllm_version=NEWEST), environ)):
        with pytest.raises(ConfigurationError, match="no GPU is visible") as caught:
            find_engine(settings, where)
        assert f"{NEWEST}+cpu" in str(caught.value)
        assert '"Device" (General/device) to cpu' in str(caught.value)
    asked = find_engine(settings_of(vllm_version=NEWEST, device="cpu"), environ)
    assert asked.facts.build == "cpu"
    assert asked.facts.kv_cache_gib is not None


def test_a_cpu_build_that_is_asked_for_is_not_there(
    environ: Mapping[str, str], worker: Mapping[str, EngineEnvironment]
) -> None:
    named = {**environ, "CLEARML_DEPLOY_VLLM": str(worker["gpu"].folder)}
    with pytest.raises(ConfigurationError, match="is built for GPUs"):
        find_engine(settings_of(device="cpu"), named)


def test_a_preview_needs_no_vllm_and_no_machine(environ: Mapping[str, str]) -> None:
    newest = preview_engine(settings_of(), environ)
    assert newest.version == NEWEST
    assert newest.facts.program == ("vllm",)
    assert newest.facts.gpus is None
    assert preview_engine(settings_of(vllm_version="0.7.2"), environ).version == "0.7.2"
    other = preview_engine(settings_of(vllm_version="0.33.5"), environ)
    assert other.version == NEWEST
    assert "0.33.5 are not known here" in other.notice


def test_the_nearest_release_before_a_version_stands_in_for_it() -> None:
    assert shipped_catalogue(Version("99")).version == NEWEST
    assert shipped_catalogue(Version("0.7.2.post1")).version == "0.7.2"
    assert shipped_catalogue(Version("0.1")).version == min(VERSIONS, key=Version)


def test_the_memory_for_caches_is_shared_by_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    free = AvailableMemory(100 * 2**30)
    monkeypatch.setattr(machine, "available_memory", lambda environ: free)
    assert machine.cpu_cache_gib({}, 1) == 32.0
    assert machine.cpu_cache_gib({}, 4) == 10.0
    assert machine.cpu_cache_gib({}, 1000) == 1.0
    assert machine.cpu_cache_gib({"VLLM_CPU_KVCACHE_SPACE": "4"}, 1) is None


def test_a_long_path_in_a_script_is_understood(tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text(f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n")
    assert worker_engine._shebang(program) == Path(sys.executable)
    program.write_text("#!/usr/bin/env python3\n")
    assert worker_engine._shebang(program) == tmp_path / "python"
