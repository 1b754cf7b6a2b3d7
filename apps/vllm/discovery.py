"""Which vLLM runs: the worker's own, or one in an environment of its own."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packaging.version import Version

from apps.vllm.catalogue import SHIPPED, Catalogue, load_catalogue
from apps.vllm.environments.layout import (
    EngineEnvironment,
    foreign_python,
    own_environment,
)
from apps.vllm.facts import Build, EngineFacts
from apps.vllm.installed import VllmEngine
from apps.vllm.machine import cpu_cache_gib, visible_gpu_count
from apps.vllm.read_flags import InstalledVllm, read_catalogue
from apps.vllm.worker_engine import Place, worker_engine
from common.engines.places import cache_folder
from common.errors import ConfigurationError, EngineError, EngineMissingError, Problem
from common.runtime.app import AnySettings


def find_engine(settings: AnySettings, environ: Mapping[str, str]) -> VllmEngine:
    """Choose the vLLM to run. Takes a moment: interpreters are asked what they have.

    Args:
        settings: The instance's settings; the models may be missing in it.
        environ: The worker's environment.

    Returns:
        An engine for `ready_engine`: its flags are not read yet, nor is it installed if it must be.

    Raises:
        EngineMissingError: None is there and none is asked for, or the one there is too old.
        ConfigurationError: It needs a GPU, there is none, and the CPU build was not asked for.
    """
    general = settings.general
    wanted: Version | None = general.wanted_version
    gpus = visible_gpu_count(environ)
    needs_gpu = not general.wants_cpu_build and general.wants_nvidia
    if wanted is None:
        place, found = worker_engine(environ)
        if found.build == "gpu":
            _check_device(settings, found.version, gpus, needs_gpu=needs_gpu)
        engine = _found_engine(place, found, environ)
    else:
        engine = _wanted_engine(wanted, settings, environ, gpus, needs_gpu=needs_gpu)
    return replace(engine, facts=_on_machine(engine.facts, settings, environ, gpus))


def preview_engine(settings: AnySettings, environ: Mapping[str, str]) -> VllmEngine:
    """The vLLM to show commands for, on whatever machine: nothing is installed.

    One that is here tells its flags; else those of the release that is wanted, or of the nearest one
    before it, are shown.
    """
    general = settings.general
    wanted: Version | None = general.wanted_version
    build: Build = "cpu" if general.wants_cpu_build else "gpu"
    try:
        python = _installed_python(wanted, build, environ)
        catalogue = read_catalogue(python, environ, catalogue_folder(environ))
        return catalogue_engine(catalogue, build)
    except EngineError:
        catalogue = shipped_catalogue(wanted)
    notice = ""
    if wanted is not None and catalogue.release != wanted:
        notice = (
            f"The flags of vLLM {wanted} are not known here: shown as of {catalogue.version}. Where it "
            "is installed, its own are read."
        )
    return replace(catalogue_engine(catalogue, build), notice=notice)


def catalogue_engine(catalogue: Catalogue, build: Build) -> VllmEngine:
    """An engine of which only the flags are known, on no particular machine."""
    facts = EngineFacts(("vllm",), catalogue, build)
    return VllmEngine(catalogue.version, facts, is_installed=False)


def ready_engine(
    engine: VllmEngine,
    settings: AnySettings,
    environ: Mapping[str, str],
    cancel: threading.Event | None = None,
) -> VllmEngine:
    """Read the flags of an engine that is installed. Takes up to a minute, the first time.

    Args:
        engine: From `find_engine`.
        settings: The instance's settings.
        environ: The worker's environment.
        cancel: Set it to give up.

    Raises:
        EngineConfigurationError: It does not run.
        FetchCancelledError: `cancel` was set.
    """
    if engine.python is None:
        raise EngineMissingError(
            f"{engine.label} is known by its flags alone: its commands can be shown, not run."
        )
    catalogue = read_catalogue(engine.python, environ, catalogue_folder(environ), cancel=cancel)
    facts = replace(engine.facts, catalogue=catalogue)
    facts = _on_machine(facts, settings, environ, facts.gpus)
    return replace(
        engine, version=catalogue.version, facts=facts, is_installed=True, is_exact=True, notice=""
    )


def catalogue_folder(environ: Mapping[str, str]) -> Path:
    """Where the flags that were read are kept."""
    return cache_folder(environ) / "vllm-flags"


def shipped_catalogue(version: Version | None) -> Catalogue:
    """The shipped catalogue of a version, or of the nearest one before it; of the newest for None."""
    shipped = sorted(map(load_catalogue, SHIPPED.glob("*.json")), key=lambda item: item.release)
    if version is None:
        return shipped[-1]
    before = [item for item in shipped if item.release <= version]
    return before[-1] if before else shipped[0]


def _wanted_engine(
    wanted: Version,
    settings: AnySettings,
    environ: Mapping[str, str],
    gpus: int | None,
    *,
    needs_gpu: bool,
) -> VllmEngine:
    build: Build = "cpu" if settings.general.wants_cpu_build else "gpu"
    try:
        place, found = worker_engine(environ)
    except EngineError:
        pass  # none, or an unusable one: the one that is wanted has an environment of its own
    else:
        is_build = found.build == build or (found.build == "cpu" and gpus == 0)
        if Version(found.version) == wanted and is_build:
            return _found_engine(place, found, environ)
    if build == "gpu":
        _check_device(settings, str(wanted), gpus, needs_gpu=needs_gpu)
    return _own_engine(own_environment(wanted, build, environ), environ)


def _found_engine(place: Place, found: InstalledVllm, environ: Mapping[str, str]) -> VllmEngine:
    is_own_interpreter = place.python == Path(sys.executable)
    env = {} if is_own_interpreter else _environment_of(place, environ)
    catalogue = shipped_catalogue(Version(found.version))
    facts = EngineFacts((str(place.program),), catalogue, found.build, env=env)
    return VllmEngine(
        found.version,
        facts,
        python=place.python,
        place=str(place.program.parent.parent),
        is_exact=catalogue.release == Version(found.version),
    )


def _own_engine(environment: EngineEnvironment, environ: Mapping[str, str]) -> VllmEngine:
    catalogue = shipped_catalogue(environment.version)
    facts = EngineFacts(
        (str(environment.program),),
        catalogue,
        environment.build,
        env=_environment_of(Place(environment.python, environment.program), environ),
    )
    is_installed = environment.is_finished
    return VllmEngine(
        str(environment.version),
        facts,
        python=environment.python,
        place=str(environment.folder),
        environment=environment,
        is_installed=is_installed,
        is_exact=catalogue.release == environment.version,
        notice="" if is_installed else f"{environment.title} will be installed.",
    )


def _environment_of(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an engine whose interpreter is not this one.

    An empty variable counts for Python as none; vLLM's libraries look for their tools on PATH.
    """
    path = os.pathsep.join(
        filter(None, (str(place.program.parent), environ.get("PATH", os.defpath)))
    )
    return {**dict.fromkeys(foreign_python(environ), ""), "PATH": path}


def _on_machine(
    facts: EngineFacts, settings: AnySettings, environ: Mapping[str, str], gpus: int | None
) -> EngineFacts:
    cache = None
    if facts.build == "cpu":
        cache = cpu_cache_gib(environ, max(1, len(settings.models)))
    return replace(facts, gpus=gpus, kv_cache_gib=cache)


def _installed_python(wanted: Version | None, build: Build, environ: Mapping[str, str]) -> Path:
    if wanted is not None:
        own = own_environment(wanted, build, environ)
        if own.is_finished:
            return own.python
    place, found = worker_engine(environ)
    if wanted is not None and Version(found.version) != wanted:
        raise EngineMissingError(f"vLLM {wanted} is not installed.")
    return place.python


def _check_device(
    settings: AnySettings, version: str, gpus: int | None, *, needs_gpu: bool
) -> None:
    if settings.general.wants_cpu_build:
        # Only reached for a vLLM that was found: the wanted build would have been installed.
        raise ConfigurationError(
            [
                Problem(
                    f"the CPU build is asked for, and the installed vLLM {version} is built for GPUs: "
                    f"write {version}+cpu here to have it installed",
                    title="vLLM Version",
                    path="General/vllm_version",
                )
            ]
        )
    if needs_gpu and gpus == 0:
        has_device = "device" in type(settings.general).model_fields
        device = ', or set "Device" (General/device) to cpu together with it' if has_device else ""
        raise ConfigurationError(
            [
                Problem(
                    f"no GPU is visible to this instance, and vLLM {version} is built for GPUs. For a "
                    f"machine without GPU ask for the CPU build: write {version}+cpu here{device}",
                    title="vLLM Version",
                    path="General/vllm_version",
                )
            ]
        )
